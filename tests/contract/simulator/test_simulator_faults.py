"""Scripted faults strike where, when and as often as they are told to."""

from __future__ import annotations

import http.client
import time
from collections.abc import Callable
from typing import Any

import pytest

from infra.simulator import SimulatedPool, Unknown
from tests.until import until

Fails = Callable[..., list[str]]
BLOCK = 65536
MAGIC = 0x67446698


@pytest.fixture
def export(
    start_pool: Any, login: Any, machine: Any, nbd_info: Any
) -> tuple[SimulatedPool, Any, dict[str, str]]:
    """(pool, api, get_nbd_info's entry of a snapshot of 4 MiB)."""
    pool = start_pool()
    api = login(pool)
    return pool, api, nbd_info(api, api.VDI.snapshot(machine(pool, api).disks[0]))


@pytest.mark.parametrize(
    ("rule", "whole_reads", "last"),
    [
        ({"nbd": "close_after_bytes", "bytes": 3 * BLOCK + 100}, 3, 100),
        ({"nbd": "reset", "bytes": 2 * BLOCK}, 2, 0),
        ({"nbd": "io_error_at_block", "block": 5}, 5, 0),
    ],
)
def test_data_that_end_too_early(
    export: Any, nbd: Any, rule: dict[str, Any], whole_reads: int, last: int
) -> None:
    pool, _, info = export
    pool.add_fault(**rule)
    client = nbd(info)
    client.open(info)
    for number in range(whole_reads):
        client.request(0, number * BLOCK, BLOCK)
        assert client.reply() == (MAGIC, 0, 7)
        assert len(client.receive(BLOCK)) == BLOCK
    client.request(0, whole_reads * BLOCK, BLOCK)
    reply = client.reply()
    assert reply in ({(MAGIC, 0, 7), None} if rule["nbd"] == "reset" else {(MAGIC, 0, 7)})
    assert len(client.receive(BLOCK)) == last
    again = nbd(info)
    again.open(info)
    again.request(0, 0, 4 << 20)
    assert again.reply() == (MAGIC, 0, 7)
    assert len(again.receive(4 << 20)) == 4 << 20


def test_replies_that_are_wrong(export: Any, nbd: Any) -> None:
    pool, _, info = export
    for rule, expected in (
        ({"nbd": "wrong_magic"}, (MAGIC ^ 1, 0, 7)),
        ({"nbd": "wrong_handle"}, (MAGIC, 0, 6)),
        ({"nbd": "error_reply", "errno": 5, "block": 0}, (MAGIC, 5, 7)),
    ):
        pool.add_fault(**rule)
        client = nbd(info)
        client.open(info)
        client.request(0, 0, 512)
        assert client.reply() == expected


@pytest.mark.parametrize(
    "where", ["eof_at_accept", "eof_at_export", "stall_at_accept", "stall_at_export", "stall"]
)
def test_silence(export: Any, nbd: Any, where: str) -> None:
    pool, _, info = export
    pool.add_fault(nbd=where, host=pool.hosts[0].uuid)
    client = nbd(info)
    client.socket.settimeout(0.2)
    if where.endswith("accept"):
        if where.startswith("eof"):
            assert client.eof()
        else:
            with pytest.raises(TimeoutError):
                client.receive(18)
        return
    client.greet()
    client.start_tls(info)
    if where == "eof_at_export":
        assert client.export(info) == b""
        return
    if where == "stall_at_export":
        with pytest.raises(TimeoutError):
            client.export(info)
        return
    client.export(info)
    client.request(0, 0, 512)
    assert client.reply() == (MAGIC, 0, 7)
    with pytest.raises(TimeoutError):
        client.receive(512)


def test_a_leaked_disk_stays_until_somebody_unplugs_it(export: Any, nbd: Any) -> None:
    pool, api, info = export
    pool.add_fault(nbd="leak")
    client = nbd(info)
    client.open(info)
    client.close()
    pool.wait_until_let_go()
    (uuid,) = pool.leftovers()["plugged_vbds"]
    vbd = api.VBD.get_by_uuid(uuid)
    api.VBD.unplug(vbd)
    api.VBD.destroy(vbd)
    assert pool.leftovers()["plugged_vbds"] == []


def test_calls_that_fail_are_late_or_lose_their_answer(export: Any, login: Any, failure: Fails) -> None:
    pool, api, _ = export
    vdi = api.VDI.get_all()[0]
    pool.add_fault(xapi="VDI.get_uuid", failure=["TOO_MANY_PENDING_TASKS"], count=2)
    for _ in range(2):
        assert failure(api.VDI.get_uuid, vdi) == ["TOO_MANY_PENDING_TASKS"]
    uuid = api.VDI.get_uuid(vdi)
    pool.add_fault(xapi="VDI.get_uuid", failure=["X"], object=uuid)
    assert api.VDI.get_uuid(api.VDI.get_all()[1]) != uuid
    assert failure(api.VDI.get_uuid, vdi) == ["X"]
    pool.add_fault(xapi="VDI.get_uuid", delay=0.2)
    started = time.monotonic()
    api.VDI.get_uuid(vdi)
    assert time.monotonic() - started >= 0.2


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_dropped_answer_has_done_its_work(
    export: Any, login: Any, machine: Any, asynchronous: bool
) -> None:
    """The stdlib's client sends a second time: so the snapshot is there twice."""
    pool, api, _ = export
    vm = machine(pool, api)
    pool.add_fault(xapi="VM.snapshot", drop_reply=True)
    (api.Async if asynchronous else api).VM.snapshot(vm.ref, "s")
    until(lambda: len(pool.leftovers()["vm_snapshots"]) >= 2)
    pool.add_fault(xapi="VM.snapshot", drop_request=True, count=2)
    with pytest.raises((http.client.RemoteDisconnected, ConnectionError)):
        api.VM.snapshot(vm.ref, "s")
    assert len(pool.leftovers()["vm_snapshots"]) == 2


def test_a_task_fails_when_its_call_is_to_fail(export: Any) -> None:
    pool, api, _ = export
    vdi = api.VDI.get_all()[0]
    pool.add_fault(xapi="VDI.destroy", failure=["VDI_IN_USE", vdi, "destroy"])
    task = api.Async.VDI.destroy(vdi)
    while api.task.get_status(task) == "pending":
        time.sleep(0.005)
    assert api.task.get_error_info(task) == ["VDI_IN_USE", vdi, "destroy"]


def test_a_host_that_is_down_answers_nothing(export: Any, nbd: Any, login: Any) -> None:
    pool, _, info = export
    client = nbd(info)
    client.open(info)
    host = pool.hosts[0].uuid
    pool.set_host(host, "down")
    assert client.eof()
    with pytest.raises(ConnectionRefusedError):
        nbd(info)
    with pytest.raises(ConnectionRefusedError):
        login(pool)
    pool.set_host(host, "up")
    assert len(nbd(info).open(info)) == 134


def test_rules_are_cleared_by_name_or_all(pool: SimulatedPool) -> None:
    for rule in ({"nbd": "stall"}, {"nbd": "slow"}, {"xapi": "VM.snapshot", "delay": 1.0}):
        pool.add_fault(**rule)
    pool.clear_faults(nbd="stall")
    assert [rule["name"] for rule in pool.faults()] == ["slow", "VM.snapshot"]
    with pytest.raises(ValueError, match="cleared by one"):
        pool.clear_faults(name="slow")
    pool.clear_faults()
    assert pool.faults() == []


@pytest.mark.parametrize(
    "rule",
    [{}, {"nbd": "explode"}, {"nbd": "stall", "colour": "red"}, {"nbd": "stall", "xapi": "VM.snapshot"}],
)
def test_rules_that_make_no_sense(pool: SimulatedPool, rule: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"fault|known"):
        pool.add_fault(**rule)
    assert pool.faults() == []


def test_things_that_are_not_there(pool: SimulatedPool) -> None:
    for act in (
        lambda: pool.write("none", 0, b""),
        lambda: pool.sha256("none"),
        lambda: pool.set_host("none", "up"),
        lambda: pool.set_host(pool.hosts[0].uuid, "sideways"),  # type: ignore[arg-type]
    ):
        with pytest.raises(Unknown):
            act()
