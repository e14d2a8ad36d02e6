"""Probing a server as far as its certificate: what crosses the line, and what a host is left with."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from infra.simulator import PoolSpec, SimulatedPool
from tests.nbd_peer import GREETING, Line, Peer
from tests.until import until
from workers.nbd import Deadlines, Probe, Tls, probe_server
from workers.nbd.handshake import Handshake, Step

ABORT = b"IHAVEOPT" + bytes.fromhex("00000002 00000000")
STARTTLS = b"IHAVEOPT" + bytes.fromhex("00000005 00000000")
ACK = bytes.fromhex("0003e889045565a9 00000005 00000001 00000000")
PATIENT = Deadlines(connect=10, handshake=10, read=10, close=10)


def test_inside_tls_abort_is_all_that_is_said() -> None:
    machine = Handshake(None, tls=True, where="server")
    assert machine.feed(GREETING) == b"\x00\x00\x00\x01" + STARTTLS
    machine.feed(ACK)
    assert machine.secured() == ABORT
    assert (machine.step, machine.wanted) == (Step.READY, 0)


def test_without_tls_the_server_hears_flags_and_abort() -> None:
    heard = []

    def script(line: Line) -> None:
        line.send(GREETING)
        line.receive_to_end()
        heard.append(bytes(line.received))

    with Peer(script) as peer:
        found = probe_server(peer.address, peer.port, Tls("none"), PATIENT)
    assert (found.state, found.said) == ("good", "no TLS")
    assert heard == [b"\x00\x00\x00\x01" + ABORT]


@pytest.fixture(scope="module")
def pool() -> Iterator[SimulatedPool]:
    with SimulatedPool.start(PoolSpec(hosts=2, second_network=False, connection_limit=1)) as pool:
        yield pool


def probed(pool: SimulatedPool, *, shown: int = 0, tls: bool = True, port: int = 0) -> Probe:
    """Host 0, with the certificate of host `shown`."""
    host = pool.hosts[0]
    certificate = pool.state.certificates[pool.hosts[shown].ref]
    trust = Tls("certificate" if tls else "none", certificate.leaf_pem, certificate.subject)
    return probe_server(host.address, port or host.nbd_port, trust, PATIENT)


def left_alone(pool: SimulatedPool) -> None:
    pool.wait_until_let_go()
    assert pool.leftovers()["plugged_vbds"] == []


def test_a_host_is_probed_and_left_as_it_was(pool: SimulatedPool) -> None:
    pool.clear_log()
    found = probed(pool)
    assert (found.state, found.said.split()[0]) == ("good", "TLSv1.2")
    left_alone(pool)
    [entry] = pool.log()["connections"]
    assert (entry["outcome"], entry["vdi"], entry["asked"]) == ("aborted", None, None)


def test_who_does_not_trust_the_host_leaves_its_place_too(pool: SimulatedPool) -> None:
    found = probed(pool, shown=1)
    assert found.state == "untrusted"
    assert "failed the certificate check" in found.said
    left_alone(pool)
    assert probed(pool).state == "good"
    left_alone(pool)


def test_a_host_whose_places_are_taken_is_busy(pool: SimulatedPool) -> None:
    host = pool.hosts[0]
    with socket.create_connection((host.address, host.nbd_port)):
        until(lambda: pool.log()["slots"] == {host.uuid: 1})
        assert probed(pool).state == "busy"
    left_alone(pool)


def test_nobody_there(pool: SimulatedPool) -> None:
    assert probed(pool, port=1).state == "unreachable"


def test_tls_is_wanted_where_the_host_has_none() -> None:
    with SimulatedPool.start(PoolSpec(hosts=1, purpose="insecure_nbd", second_network=False)) as pool:
        assert probed(pool).state == "no-tls"
        left_alone(pool)
        assert probed(pool, tls=False) == Probe("good", "no TLS", pytest.approx(1, abs=1))
        left_alone(pool)
