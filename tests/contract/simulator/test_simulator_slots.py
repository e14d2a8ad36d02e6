"""What holds an NBD slot, how long, and where it can be seen: over XenAPI and in the log."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest

from infra.simulator import SimulatedPool, Timing
from tests.until import PATIENCE, until


@pytest.fixture
def export(
    start_pool: Any, login: Any, machine: Any, nbd_info: Any
) -> tuple[SimulatedPool, Any, dict[str, str], str]:
    """(pool, api, get_nbd_info's entry of a snapshot, the snapshot)."""
    pool = start_pool()
    api = login(pool)
    snapshot = api.VDI.snapshot(machine(pool, api).disks[0])
    return pool, api, nbd_info(api, snapshot), snapshot


def plugged(api: Any, host: str) -> list[str]:
    """The disks in a host's control domain, as anybody may ask for them."""
    everyone = api.VM.get_all_records_where('field "is_control_domain"="true"')
    [domain] = [ref for ref, record in everyone.items() if record["resident_on"] == host]
    vbds = api.VBD.get_all_records_where(f'field "VM"="{domain}"')
    return [record["VDI"] for record in vbds.values()]


def test_an_open_connection_is_a_disk_in_the_control_domain(export: Any, nbd: Any) -> None:
    pool, api, info, snapshot = export
    [host] = api.host.get_all()
    assert plugged(api, host) == []
    clients = [nbd(info), nbd(info)]
    for client in clients:
        client.open(info)
    assert plugged(api, host) == [snapshot, snapshot]
    for client in clients:
        client.close()
    pool.wait_until_let_go()
    assert plugged(api, host) == []


def test_the_log_says_when_an_open_began_and_ended(
    start_pool: Any, login: Any, machine: Any, nbd_info: Any, nbd: Any
) -> None:
    pool = start_pool(timing=Timing(plug_delay=0.2, slot_release_delay=0.1))
    api = login(pool)
    info = nbd_info(api, api.VDI.snapshot(machine(pool, api).disks[0]))
    client = nbd(info)
    client.open(info)
    [entry] = pool.log()["connections"]
    assert entry["opened"] <= entry["asked"] <= entry["answered"] - 0.2
    assert entry["closed"] is entry["freed"] is None
    client.close()
    pool.wait_until_let_go()
    [entry] = pool.log()["connections"]
    assert entry["closed"] + 0.1 <= entry["freed"]


def test_a_late_release_keeps_disk_and_slot(export: Any, nbd: Any) -> None:
    pool, api, info, snapshot = export
    [host] = api.host.get_all()
    pool.add_fault(nbd="late_release", seconds=2)
    client = nbd(info)
    client.open(info)
    client.request(2)
    assert client.eof(), "the client sees its connection end at once"
    client.close()
    assert plugged(api, host) == [snapshot]
    assert list(pool.log()["slots"].values()) == [1]
    pool.wait_until_let_go()
    assert plugged(api, host) == []
    [entry] = pool.log()["connections"]
    assert entry["freed"] - entry["closed"] >= 2


def test_a_late_end_lets_a_client_that_disconnects_wait(export: Any, nbd: Any) -> None:
    pool, _, info, _ = export
    pool.add_fault(nbd="late_end", seconds=0.5)
    client = nbd(info)
    client.open(info)
    began = time.monotonic()
    client.request(2)
    assert client.eof()
    assert time.monotonic() - began >= 0.5


def test_a_peer_that_vanished_holds_its_slot_until_the_service_stops(export: Any, nbd: Any) -> None:
    pool, api, info, snapshot = export
    [host] = api.host.get_all()
    pool.add_fault(nbd="vanish", count=-1)
    vanished, living = nbd(info), nbd(info)
    for client in (vanished, living):
        client.open(info)
    living.request(2)
    assert living.eof()
    vanished.close()
    until(lambda: all(entry["closed"] for entry in pool.log()["connections"]))
    until(lambda: list(pool.log()["slots"].values()) == [1])
    assert plugged(api, host) == [snapshot]
    pool.restart_nbd(pool.hosts[0].uuid)
    assert pool.log()["slots"] == {}
    assert plugged(api, host) == []
    assert len(nbd(info).open(info)) == 134


@pytest.mark.parametrize("how", ["restart-nbd", "down"])
def test_a_stopped_service_holds_nothing(export: Any, nbd: Any, how: str) -> None:
    pool, _, info, _ = export
    pool.add_fault(nbd="late_release", seconds=60)
    clients = [nbd(info), nbd(info)]
    for client in clients:
        client.open(info)
    clients[0].close()
    until(lambda: any(entry["closed"] for entry in pool.log()["connections"]))
    if how == "down":
        pool.set_host(pool.hosts[0].uuid, "down")
    else:
        pool.restart_nbd(pool.hosts[0].uuid)
    assert clients[1].eof()
    assert pool.log()["slots"] == {}
    assert [entry["outcome"] for entry in pool.log()["connections"]] == [
        "closed-by-client",
        "service-stopped",
    ]
    assert pool.leftovers()["plugged_vbds"] == []


def test_a_member_stops_while_its_master_is_away(start_pool: Any, nbd: Any) -> None:
    pool = start_pool(hosts=2)
    pool.set_host(pool.hosts[0].uuid, "down")
    client = nbd({"address": "127.0.1.2", "port": str(pool.state.nbd_port)})
    until(lambda: len(pool.log()["connections"]) == 1)
    stopping = threading.Thread(target=pool.set_host, args=(pool.hosts[1].uuid, "down"))
    stopping.start()
    stopping.join(PATIENCE)
    assert not stopping.is_alive()
    assert client.eof()
