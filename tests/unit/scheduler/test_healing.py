"""Changed-block tracking that broke: one new baseline with the pool's own reason, then incremental again."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest

from infra.simulator import DiskSpec, PoolSpec, Timing, VmSpec
from scheduler.runs.values import ResultRow
from tests.failure_report import run_in_short
from tests.unit.scheduler import spoilt_tracking as spoilt
from tests.unit.scheduler.conftest import Site
from tests.unit.scheduler.spoilt_tracking import Spoil, call, vm_ref
from tests.until import until

MiB = 1 << 20
SPEC = PoolSpec(
    hosts=2,
    vms=(VmSpec("db", (DiskSpec(2 * MiB, "root"),), host=1),),
    local_srs=True,
    size_rounding=1,
    timing=Timing(login_failure_delay=0.1, data_destroy_wait=0.2, slot_release_delay=0.02),
)


@pytest.fixture
def site(make_site: Callable[[PoolSpec], Site]) -> Site:
    """A pool whose one disk has been backed up once, and written to since."""
    made = make_site(SPEC)
    assert night(made).mode == "full"
    made.pool.write_random(made.disks[0], blocks=3, seed=1)
    return made


def night(site: Site) -> ResultRow:
    """The one disk's row, after its content was compared."""
    result = site.night()
    assert (result.status, result.warnings) == ("succeeded", ()), run_in_short(result)
    [row] = result.disks
    assert site.restored(row.point, row.vdi) == site.pool.content(row.vdi)
    return row


def assert_healed(site: Site) -> None:
    site.pool.write_random(site.disks[0], blocks=2, seed=9)
    row = night(site)
    assert (row.mode, row.reason, row.read_bytes) == ("incremental", None, 2 * 65536)
    [snapshot] = site.pool.leftovers()["vdi_snapshots"]
    assert snapshot["type"] == "cbt_metadata"


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (spoilt.its_host_dies_and_it_starts_elsewhere, "its host went down while the disk was in use"),
        (
            spoilt.the_log_does_not_grow_with_the_disk,
            "could not resize the log with the disk (VDI_CBT_RESIZE",
        ),
        (
            spoilt.a_middle_snapshot_goes_without_its_bits,
            "chain from the base snapshot is broken (SR_BACKEND_FAIL",
        ),
    ],
)
def test_a_new_baseline_once_with_the_pools_own_reason(site: Site, spoil: Spoil, reason: str) -> None:
    spoil(site, "db")
    row = night(site)
    assert row.mode == "full"
    assert reason in row.reason
    assert_healed(site)


def test_a_pool_without_messages_is_backed_up_without_its_reason(site: Site) -> None:
    spoilt.the_log_does_not_grow_with_the_disk(site, "db")
    site.pool.add_fault(xapi="message.get", failure=["MESSAGE_METHOD_UNKNOWN", "message.get"], count=-1)
    row = night(site)
    assert row.reason == "changed-block tracking is on from this backup on; it was off before"


def test_the_log_of_a_vm_whose_host_died_is_not_believed_while_it_stays_off(site: Site) -> None:
    site.pool.set_host(site.pool.hosts[1].uuid, "down")
    row = night(site)  # compares the content: the log has lost the three blocks that were written
    assert row.mode == "full"
    assert "the pool does not say that it was shut down" in row.reason
    assert night(site).mode == "incremental"
    call(site, "VM.start_on", vm_ref(site, "db"), site.pool.hosts[0].ref, False, False)
    assert "VDI_CBT_METADATA_INCONSISTENT" in night(site).reason
    assert_healed(site)


def test_where_nothing_keeps_messages_a_vm_that_is_off_is_believed(site: Site) -> None:
    call(site, "VM.clean_shutdown", vm_ref(site, "db"))
    site.pool.add_fault(xapi="message.get", failure=["MESSAGE_METHOD_UNKNOWN", "message.get"], count=-1)
    assert night(site).mode == "incremental"


def test_a_vm_that_was_shut_down_is_believed(site: Site) -> None:
    call(site, "VM.clean_shutdown", vm_ref(site, "db"))
    row = night(site)
    assert (row.mode, row.read_bytes) == ("incremental", 3 * 65536)


def test_a_disk_that_moved_to_other_storage_is_recognised_by_its_drive(site: Site) -> None:
    old = site.disks[0]
    spoilt.it_moves_to_other_storage(site, "db")
    assert site.disks != [old]
    row = night(site)
    assert row.reason == (
        "the drive held another disk at the last backup, which has moved to another storage repository:"
        f" it was {old}"
    )
    site.pool.write_random(site.disks[0], blocks=2, seed=9)
    assert night(site).mode == "incremental"


def test_a_smaller_disk_in_the_same_drive(site: Site) -> None:
    spoilt.a_smaller_disk_takes_its_drive(site, "db")
    assert "at the last backup, which a smaller one has replaced" in night(site).reason


def test_a_vm_reverted_to_our_snapshot_and_what_people_snapshot_of_it_then(site: Site) -> None:
    """The revert copies our mark onto the live disk, and so onto every later snapshot of it."""
    run = site.submit()
    site.work(run, until=lambda step: step == "finish-vm")
    site.pool.wait_until_let_go()
    [snapshot] = site.pool.leftovers()["vm_snapshots"]
    until(lambda: site.pool.leftovers()["plugged_vbds"] == [])
    call(site, "VM.revert", call(site, "VM.get_by_uuid", snapshot))
    call(site, "VM.snapshot", vm_ref(site, "db"), "before the upgrade", [])
    theirs = [each for each in site.pool.leftovers()["vm_snapshots"] if each != snapshot]
    result = None
    for _ in range(60):  # the step that was seen above is published again after some seconds
        result = site.work(run)
        if result:
            break
    assert result is not None
    row = night(site)
    assert row.mode == "full"
    assert "the VM was reverted to a snapshot, or the disk was replaced" in row.reason
    left = site.pool.leftovers()
    assert left["vm_snapshots"] == theirs
    assert sorted(each["type"] for each in left["vdi_snapshots"]) == ["cbt_metadata", "user"]


def test_bits_beyond_the_last_block_are_not_read(make_site: Callable[[PoolSpec], Site]) -> None:
    made = make_site(dataclasses.replace(SPEC, vms=(VmSpec("db", (DiskSpec(3 * 65536),), host=1),)))
    night(made)
    made.pool.resize(made.disks[0], 13 * 65536 + 512)
    made.pool.write_random(made.disks[0], blocks=2, seed=4)
    made.pool.add_fault(sm="cbt_padding", count=-1)
    assert night(made).mode == "incremental"


def test_a_host_that_dies_in_the_middle_of_a_run(site: Site) -> None:
    host = site.pool.hosts[1]

    def crash() -> bool:
        if site.pool.leftovers()["vm_snapshots"] and host.up:
            site.pool.set_host(host.uuid, "down")
        return False

    result = site.work(site.submit(), stop=crash)
    assert result is not None
    assert result.status == "succeeded", run_in_short(result)
    assert not host.up
    assert night(site).mode == "full"
    assert_healed(site)
