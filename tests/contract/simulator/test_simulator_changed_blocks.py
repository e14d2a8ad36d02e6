"""list_changed_blocks: which bits, between which ends, and what breaks a chain."""

from __future__ import annotations

import base64
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest

from infra.simulator import DiskSpec, SimulatedPool
from infra.simulator.cbt import Logs
from infra.simulator.failures import Failure

Fails = Callable[..., list[str]]
BLOCK = 65536


def changed(api: Any, first: str, last: str) -> set[int]:
    raw = base64.b64decode(api.VDI.list_changed_blocks(first, last), validate=True)
    return {number for number in range(len(raw) * 8) if raw[number // 8] & (0x80 >> number % 8)}


@pytest.fixture
def disk(api: Any, pool: SimulatedPool, machine: Any) -> tuple[str, str]:
    """(reference, uuid) of a detached disk of 4 MiB with CBT, whose VM is off."""
    made = machine(pool, api, (DiskSpec(4 << 20, cbt=True),), running=False)
    return made.disks[0], made.uuids[0]


def test_bits_are_blocks_written_most_significant_first(api: Any, pool: SimulatedPool, disk: Any) -> None:
    vdi, uuid = disk
    first = api.VDI.snapshot(vdi)
    assert pool.write(uuid, 9 * BLOCK - 1, b"xy") == [8, 9]
    last = api.VDI.snapshot(vdi)
    text = api.VDI.list_changed_blocks(first, last)
    assert base64.b64decode(text) == bytes([0, 0b11000000, 0, 0, 0, 0, 0, 0])
    assert "\n" not in text


def test_writing_the_same_bytes_counts_as_written(api: Any, pool: SimulatedPool, disk: Any) -> None:
    vdi, uuid = disk
    first = api.VDI.snapshot(vdi)
    pool.write(uuid, 0, pool.content(uuid)[:512])
    assert changed(api, first, vdi) == {0}


def test_a_longer_range_is_the_sum_of_its_parts(api: Any, pool: SimulatedPool, disk: Any) -> None:
    vdi, uuid = disk
    pool.write(uuid, 63 * BLOCK, b"before the first snapshot")
    snapshots = [api.VDI.snapshot(vdi)]
    for block in (1, 2, 3):
        pool.write(uuid, block * BLOCK, b"!")
        snapshots.append(api.VDI.snapshot(vdi))
    pool.write(uuid, 4 * BLOCK, b"!")
    assert changed(api, snapshots[0], snapshots[1]) == {1}
    assert changed(api, snapshots[1], snapshots[3]) == {2, 3}
    assert changed(api, snapshots[0], vdi) == {1, 2, 3, 4}


def test_purged_ends_still_tell(api: Any, pool: SimulatedPool, disk: Any) -> None:
    vdi, uuid = disk
    first, _ = api.VDI.snapshot(vdi), pool.write(uuid, 0, b"!")
    last = api.VDI.snapshot(vdi)
    api.VDI.data_destroy(first)
    assert changed(api, first, last) == {0}


def test_growth_extends_with_zeros(api: Any, pool: SimulatedPool, disk: Any) -> None:
    vdi, uuid = disk
    first = api.VDI.snapshot(vdi)
    pool.write(uuid, 0, b"!")
    middle = api.VDI.snapshot(vdi)
    api.VDI.resize(vdi, str((6 << 20) - 5))
    assert api.VDI.get_virtual_size(vdi) == str(6 << 20)
    pool.write(uuid, 80 * BLOCK, b"!")
    last = api.VDI.snapshot(vdi)
    assert len(base64.b64decode(api.VDI.list_changed_blocks(first, last))) == 12
    assert changed(api, first, last) == {0, 80}
    assert changed(api, middle, last) == {80}
    assert pool.content(api.VDI.get_uuid(last))[4 << 20 : 80 * BLOCK] == bytes(80 * BLOCK - (4 << 20))


def test_a_larger_disk_without_a_longer_bitmap_is_inconsistent(
    api: Any, pool: SimulatedPool, machine: Any, failure: Fails
) -> None:
    made = machine(pool, api, (DiskSpec(BLOCK, cbt=True),))
    first, _ = api.VDI.snapshot(made.disks[0]), api.VDI.snapshot(made.disks[0])
    pool.resize(made.uuids[0], 2 * BLOCK)
    last = api.VDI.snapshot(made.disks[0])
    details = failure(api.VDI.list_changed_blocks, first, last)
    assert details[0] == "SR_BACKEND_FAILURE_459"
    assert details[2].endswith("[opterr=Inconsistent bitmaps]")


def test_ends_that_are_not_related(api: Any, pool: SimulatedPool, disk: Any, failure: Fails) -> None:
    vdi, _ = disk
    first, last = api.VDI.snapshot(vdi), api.VDI.snapshot(vdi)
    clone = api.VDI.clone(last)

    def is_460(start: str, end: str, text: str = "unrelated") -> None:
        code, _, message, _ = failure(api.VDI.list_changed_blocks, start, end)
        assert code == "SR_BACKEND_FAILURE_460"
        assert text in message

    is_460(last, first)
    is_460(first, first, "are same")
    is_460(first, clone)
    api.VDI.disable_cbt(vdi)
    assert changed(api, first, last) == set()
    is_460(first, vdi)
    early = api.VDI.snapshot(vdi)
    assert not api.VDI.get_cbt_enabled(early)
    api.VDI.enable_cbt(vdi)
    is_460(early, vdi)
    is_460(last, api.VDI.snapshot(vdi))


def test_only_the_later_end_must_be_detached(api: Any, pool: SimulatedPool, vm: Any, failure: Fails) -> None:
    first, live = api.VDI.snapshot(vm.disks[0]), vm.disks[0]
    assert failure(api.VDI.list_changed_blocks, first, live) == ["VDI_IN_USE", live, "list_changed_blocks"]
    api.VM.clean_shutdown(vm.ref)
    assert changed(api, first, live) == set()
    # Its own disks attached, a VM snapshot's disks are as good as detached.
    of_vm = api.VM.snapshot(vm.ref, "s")
    taken = [api.VBD.get_VDI(vbd) for vbd in api.VM.get_VBDs(of_vm)]
    assert changed(api, first, next(vdi for vdi in taken if api.VDI.get_snapshot_of(vdi) == live)) == set()


def test_different_srs(start_pool: Any, login: Any, machine: Any, failure: Fails) -> None:
    pool = start_pool(local_srs=True)
    api = login(pool)
    disks = (DiskSpec(4 << 20, cbt=True), DiskSpec(4 << 20, cbt=True, sr="local"))
    one, other = (api.VDI.snapshot(vdi) for vdi in machine(pool, api, disks).disks)
    assert failure(api.VDI.list_changed_blocks, one, other)[0] == "INTERNAL_ERROR"


@pytest.mark.parametrize(("sr_type", "survives"), [("nfs", False), ("lvmoiscsi", True)])
def test_destroying_a_middle_snapshot(
    start_pool: Any, login: Any, machine: Any, failure: Fails, sr_type: str, survives: bool
) -> None:
    """With its data, any SR relinks; purged, file SRs have lost the log before they could."""
    pool = start_pool(sr_type=sr_type)
    api = login(pool)
    made = machine(pool, api)
    for purged, vdi, uuid in ((False, made.disks[0], made.uuids[0]), (True, made.disks[1], made.uuids[1])):
        first = api.VDI.snapshot(vdi)
        pool.write(uuid, 0, b"!")
        middle = api.VDI.snapshot(vdi)
        pool.write(uuid, BLOCK, b"!")
        last = api.VDI.snapshot(vdi)
        if purged:
            api.VDI.data_destroy(middle)
        api.VDI.destroy(middle)
        if purged and not survives:
            assert failure(api.VDI.list_changed_blocks, first, last)[0] == "SR_BACKEND_FAILURE_460"
        else:
            assert changed(api, first, last) == {0, 1}


def test_a_crash_makes_the_log_inconsistent_and_the_next_start_drops_it(
    start_pool: Any, login: Any, machine: Any
) -> None:
    pool = start_pool(hosts=2)
    api = login(pool)
    made = machine(pool, api, host=1)
    first = api.VDI.snapshot(made.disks[0])
    pool.set_host(pool.hosts[1].uuid, "down")
    assert api.VM.get_power_state(made.ref) == "Halted"
    assert changed(api, first, made.disks[0]) == set()
    assert api.VDI.get_cbt_enabled(made.disks[0])
    api.VM.start(made.ref, False, False)
    assert not api.VDI.get_cbt_enabled(made.disks[0])
    names = {message["name"] for message in api.message.get_all_records().values()}
    assert names == {"VDI_CBT_METADATA_INCONSISTENT", "VM_STARTED"}


@pytest.mark.parametrize(
    ("fault", "message"),
    [("cbt_snapshot", "VDI_CBT_SNAPSHOT_FAILED"), ("cbt_resize", "VDI_CBT_RESIZE_FAILED")],
)
def test_cbt_is_lost_quietly(start_pool: Any, login: Any, machine: Any, fault: str, message: str) -> None:
    pool = start_pool()
    api = login(pool)
    made = machine(pool, api)
    pool.add_fault(sm=fault, vdi=made.uuids[0])
    snapshot = api.VDI.snapshot(made.disks[0])
    pool.resize(made.uuids[0], 8 << 20)
    assert not api.VDI.get_cbt_enabled(made.disks[0])
    assert api.VDI.get_cbt_enabled(snapshot) is (fault == "cbt_resize")
    assert [one["name"] for one in api.message.get_all_records().values()] == [message]


def test_messages_are_given_that_are_later_than_the_time_asked_for(
    start_pool: Any, login: Any, machine: Any
) -> None:
    """An object's by the second, everybody's by the fraction of a second, as XAPI's files are named."""
    pool = start_pool()
    api = login(pool)
    made = machine(pool, api)
    pool.add_fault(sm="cbt_resize", vdi=made.uuids[0])
    pool.resize(made.uuids[0], 8 << 20)
    [(ref, message)] = api.message.get_all_records().items()
    its_second = datetime.strptime(str(message["timestamp"]).replace("-", ""), "%Y%m%dT%H:%M:%SZ")
    before, after = (f"{its_second + timedelta(seconds=by):%Y%m%dT%H:%M:%SZ}" for by in (-1, 1))
    assert list(api.message.get("VDI", made.uuids[0], before)) == [ref]
    assert list(api.message.get("VDI", made.uuids[0], f"{its_second:%Y%m%dT%H:%M:%SZ}")) == []
    assert list(api.message.get_since(before)) == [ref]
    assert list(api.message.get_since(after)) == []


def test_a_bitmap_of_two_tebibytes() -> None:
    logs = Logs()
    logs.enable("live", 2 << 40)
    logs.snapshot("live", "one")
    logs.wrote("live", [0, (1 << 25) - 1])
    bitmap = logs.changed("one", "live")
    assert (len(bitmap), bitmap[0], bitmap[-1]) == (4 << 20, 0x80, 0x01)


def test_a_shrunk_disk_is_inconsistent() -> None:
    logs = Logs()
    logs.enable("live", 1 << 30)
    logs.snapshot("live", "one")
    logs.snapshot("live", "two")
    logs.grow("live", 1 << 29)
    with pytest.raises(Failure, match="459"):
        logs.changed("one", "live")
