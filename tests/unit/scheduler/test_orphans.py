"""What crashes, late answers and hosts that hold on leave on a pool: found and removed, and nothing else."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
import redis

from infra.simulator import DiskSpec, PoolSpec, Timing, VmSpec
from scheduler.pool_objects.garbage_collector import GarbageCollector
from scheduler.pool_objects.orphans import Orphan, find_orphans
from scheduler.pool_objects.ownership import TAG_REPOSITORY, OwnershipTag
from scheduler.pool_objects.removing import Removed, remove_orphans
from scheduler.pool_objects.snapshots import snapshot_name
from tests.unit.scheduler.conftest import Site
from tests.until import until
from workers.xenapi import Session

MiB = 1 << 20
SPEC = PoolSpec(
    hosts=1,
    vms=(VmSpec("db", (DiskSpec(2 * MiB, "root"), DiskSpec(2 * MiB, "data"))),),
    timing=Timing(login_failure_delay=0.1, data_destroy_wait=0.1, slot_release_delay=0.02),
)


@pytest.fixture
def site(make_site: Callable[[PoolSpec], Site]) -> Site:
    """A pool whose disks have been backed up once, and written to since."""
    made = make_site(SPEC)
    assert made.night().status == "succeeded"
    for number, vdi in enumerate(made.disks):
        made.pool.write_random(vdi, blocks=3, seed=number)
    return made


def look(site: Site) -> list[Orphan]:
    with site.context.sessions.borrow("lab") as session:
        return find_orphans(session, site.context, "lab")


def clean(site: Site) -> list[Removed]:
    with site.context.sessions.borrow("lab") as session:
        found = find_orphans(session, site.context, "lab")
        return remove_orphans(session, site.context, found)


def kinds(site: Site) -> list[str]:
    return [each.kind for each in look(site)]


def bases(site: Site) -> set[str]:
    [vm] = site.pool.vms()
    disks = [site.repository.latest_disk(vm["uuid"], vdi) for vdi in site.disks]
    return {disk.snapshot for disk in disks if disk is not None}


def assert_only_bases(site: Site) -> None:
    assert kinds(site) == []
    left = site.pool.leftovers()
    assert (left["vm_snapshots"], left["plugged_vbds"]) == ([], [])
    assert {each["uuid"] for each in left["vdi_snapshots"]} == bases(site)
    assert {each["type"] for each in left["vdi_snapshots"]} == {"cbt_metadata"}


def assert_next_night_is_incremental(site: Site) -> None:
    result = site.night()
    assert {row.mode for row in result.disks} == {"incremental"}
    for row in result.disks:
        assert site.restored(row.point, row.vdi) == site.pool.content(row.vdi)


def take_snapshot(site: Site, name: str) -> str:
    [vm] = site.pool.vms()
    with Session.login("lab", site.settings.pool("lab")) as session:
        return session.call_async("VM.snapshot", session.call("VM.get_by_uuid", vm["uuid"]), name)


def test_a_pool_as_it_should_be_costs_three_listings(site: Site) -> None:
    site.pool.clear_log()
    assert_only_bases(site)
    calls = site.pool.log()["calls"]
    assert calls == {"VDI.get_all_records_where": 1, "VM.get_all_records_where": 1, "VDI.get_all": 1}


def test_a_snapshot_that_comes_after_the_runs_end_is_removed(site: Site) -> None:
    result = site.night()
    take_snapshot(site, snapshot_name(result.run))
    assert kinds(site) == ["VM snapshot", "disk snapshot", "disk snapshot"]
    assert [each.error for each in clean(site)] == [None] * 3
    assert_only_bases(site)
    assert_next_night_is_incremental(site)


def test_a_scheduler_that_dies_between_the_vm_snapshot_and_its_disks_leaves_them_marked(site: Site) -> None:
    result = site.night()
    late = take_snapshot(site, snapshot_name(result.run))
    with site.context.sessions.borrow("lab") as session:
        found = find_orphans(session, site.context, "lab")
        remove_orphans(session, site.context, [each for each in found if each.kind == "VM snapshot"])
        assert late not in session.call("VM.get_all")
    assert kinds(site) == ["disk snapshot", "disk snapshot"]
    clean(site)
    assert_only_bases(site)


def test_what_a_run_that_goes_on_has_made_is_no_orphan(site: Site, redis_client: redis.Redis) -> None:
    run = site.submit()
    site.work(run, until=lambda step: step == "finish-vm")
    assert kinds(site) == []
    redis_client.delete(f"cbtfleet:run:{run}")  # and Redis forgets it: the bucket says that it is open
    assert kinds(site) == []
    assert len(site.pool.leftovers()["vm_snapshots"]) == 1


def test_a_committed_base_keeps_its_metadata_and_loses_its_data(site: Site) -> None:
    site.pool.add_fault(xapi="VM.destroy", failure=["INTERNAL_ERROR", "the toolstack restarts"], count=1)
    assert "not everything of this run could be removed" in site.night().warnings[0]
    site.pool.wait_until_let_go()
    found = kinds(site)
    assert sorted(found) == ["VM snapshot", "metadata snapshot", "metadata snapshot", *["snapshot data"] * 2]
    assert found[0] == "VM snapshot"
    clean(site)
    assert_only_bases(site)
    assert_next_night_is_incremental(site)


def test_a_stale_base_goes_when_a_newer_one_is_there(site: Site) -> None:
    site.pool.add_fault(xapi="VDI.destroy", failure=["SR_BACKEND_FAILURE_202", "", "busy", ""], count=2)
    assert "the scheduler tries again by itself" in site.night().warnings[0]
    assert kinds(site) == ["metadata snapshot"] * 2
    clean(site)
    assert_only_bases(site)


def test_the_base_of_a_disk_that_is_gone_goes_too(site: Site) -> None:
    root, data = site.disks
    with Session.login("lab", site.settings.pool("lab")) as session:
        session.call("VM.hard_shutdown", session.call("VM.get_by_uuid", site.pool.vms()[0]["uuid"]))
        session.call("VDI.destroy", session.call("VDI.get_by_uuid", data))
    [left] = look(site)
    assert (left.kind, left.why) == ("metadata snapshot", "its disk is no longer on the pool")
    clean(site)
    assert_only_bases_of(site, {root})


def assert_only_bases_of(site: Site, disks: set[str]) -> None:
    assert {each["snapshot_of"] for each in site.pool.leftovers()["vdi_snapshots"]} == disks
    assert kinds(site) == []


def test_what_others_made_is_left_alone(site: Site) -> None:
    """Another fleet's snapshot, a person's, and one of a disk that carries a copy of our mark."""
    take_snapshot(site, snapshot_name("20261122T010203Z-3fa9c1"))
    take_snapshot(site, "before the upgrade")
    with Session.login("lab", site.settings.pool("lab")) as session:
        for vdi in site.disks:
            ref = session.call("VDI.get_by_uuid", vdi)
            session.call("VDI.add_to_other_config", ref, TAG_REPOSITORY, site.repository.repository_id)
    take_snapshot(site, "after it")
    assert kinds(site) == []
    assert site.night().warnings == ()
    assert len(site.pool.leftovers()["vm_snapshots"]) == 3


def test_a_persons_snapshot_with_a_copy_of_our_whole_tag_is_left_alone(site: Site) -> None:
    """A revert makes the live disk from our snapshot, tag and all; every later snapshot of it copies that."""
    with Session.login("lab", site.settings.pool("lab")) as session:
        for vdi in site.disks:
            ref = session.call("VDI.get_by_uuid", vdi)
            [base] = session.call("VDI.get_snapshots", ref)
            for key, value in session.call("VDI.get_other_config", base).items():
                session.call("VDI.add_to_other_config", ref, key, value)
        theirs = session.call("VDI.get_uuid", session.call("VDI.snapshot", ref))
    assert kinds(site) == []
    assert site.night().warnings == ()
    assert theirs in {each["uuid"] for each in site.pool.leftovers()["vdi_snapshots"]}


def test_what_a_run_of_another_repository_made_is_left_alone(site: Site) -> None:
    """Two fleets with a repository each back the same pool up: the other's base, and its snapshot at work."""
    theirs = set()
    with Session.login("lab", site.settings.pool("lab")) as session:
        for vdi, is_base in zip(site.disks, (True, False), strict=True):
            ref = session.call("VDI.snapshot", session.call("VDI.get_by_uuid", vdi))
            uuid = session.call("VDI.get_uuid", ref)
            run = "20261122T010203Z-3fa9c1"
            OwnershipTag(run, "another repository", uuid, "vm", vdi, "Running").write(session, ref)
            if is_base:
                session.call("VDI.data_destroy", ref)
            theirs.add(uuid)
    assert kinds(site) == []
    assert site.night().warnings == ()
    assert theirs <= {each["uuid"] for each in site.pool.leftovers()["vdi_snapshots"]}


def test_a_snapshot_of_ours_that_somebody_attached_to_a_vm_stays(site: Site) -> None:
    site.pool.add_fault(xapi="VDI.destroy", failure=["SR_BACKEND_FAILURE_202", "", "busy", ""], count=2)
    late = take_snapshot(site, snapshot_name(site.night().run))
    with Session.login("lab", site.settings.pool("lab")) as session:
        session.call("VM.set_name_label", late, "keep this!")
        [vbd, *_] = session.call("VM.get_record", late)["VBDs"]
        vdi = session.call("VBD.get_record", vbd)["VDI"]
        uuid = session.call("VDI.get_uuid", vdi)
        OwnershipTag("gone", site.repository.repository_id, uuid, "vm", "disk", "Running").write(session, vdi)
    assert [each.error for each in clean(site) if each.orphan.uuid == uuid] == ['VM "keep this!" has it']
    assert uuid in {each["uuid"] for each in site.pool.leftovers()["vdi_snapshots"]}


def test_a_host_that_does_not_let_go_keeps_nobody_waiting(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scheduler.pool_objects.cleanup.GRACE", 0.5)
    site.pool.add_fault(nbd="late_release", seconds=600, vdi=None, count=1)
    result = site.night()
    assert result.status == "succeeded"
    [warning] = result.warnings
    assert "VDI_IN_USE" in warning
    assert "the scheduler tries again by itself" in warning
    stay = [each for each in clean(site) if each.error is not None]
    assert {each.orphan.kind for each in stay} == {"attachment", "snapshot data"}
    assert all(f"slot {used_slot(site)} of host" in str(each.error) for each in stay), stay
    site.pool.restart_nbd(site.pool.hosts[0].uuid)
    assert [each.error for each in clean(site)] == [None]
    assert_only_bases(site)


def used_slot(site: Site) -> int:
    """The only one that does not get free."""

    def used() -> list[int]:
        site.ledger.sweep()
        site.count_hosts()
        host = site.pool.hosts[0].uuid
        return [slot.number for slot in site.ledger.slots("lab", host) if slot.state != "FREE"]

    until(lambda: len(used()) == 1)
    return used()[0]


@pytest.mark.parametrize(("fault", "goes"), [("leak", True), ("late_release", False)])
def test_a_disk_that_stays_plugged_in_is_detached_once_no_slot_has_it_and_the_host_lets_go(
    site: Site, monkeypatch: pytest.MonkeyPatch, fault: str, goes: bool
) -> None:
    monkeypatch.setattr("scheduler.pool_objects.cleanup.GRACE", 0.3)
    seconds = {"seconds": 600} if fault == "late_release" else {}
    site.pool.add_fault(nbd=fault, count=1, **seconds)
    site.night()
    host = site.pool.hosts[0].uuid
    assert {each.kept is not None for each in look(site) if each.kind == "attachment"} == {True}
    assert site.ledger.free_slot("lab", host, used_slot(site))  # an operator has looked at the worker
    errors = {each.orphan.kind: each.error for each in clean(site)}
    if goes:
        assert set(errors.values()) == {None}
        assert_only_bases(site)
    else:
        assert "DEVICE_DETACH_REJECTED" in str(errors["attachment"])
        assert "VDI_IN_USE" in str(errors["snapshot data"])
        assert len(site.pool.leftovers()["plugged_vbds"]) == 1
        site.pool.restart_nbd(host)


def test_the_garbage_collector_looks_when_a_run_begins_and_ends_and_says_what_stays_once(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    garbage_collector = GarbageCollector(site.context)
    garbage_collector.round()
    site.pool.clear_log()
    garbage_collector.round()
    assert site.pool.log()["calls"] == {}
    run = site.submit()
    garbage_collector.round()
    site.work(run)
    take_snapshot(site, snapshot_name(run))
    site.pool.add_fault(xapi="VM.destroy", failure=["INTERNAL_ERROR", "oops"], count=1)
    garbage_collector.round()
    assert caplog.text.count("stays: ") == 3  # the VM snapshot, and with it its two disks
    assert len(site.pool.leftovers()["vm_snapshots"]) == 1
    garbage_collector.round()  # it is not due yet
    assert len(site.pool.leftovers()["vm_snapshots"]) == 1
    assert site.night().status == "succeeded"
    GarbageCollector(site.context).round()
    assert_only_bases(site)


def test_a_run_that_cannot_be_read_keeps_the_garbage_collector_from_no_other(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    garbage_collector = GarbageCollector(site.context)
    garbage_collector.round()
    site.ledger.create_run("20261122T010000Z-newer", b"{}")
    run = site.submit()
    garbage_collector.round()
    site.work(run)
    take_snapshot(site, snapshot_name(run))
    garbage_collector.round()
    assert site.pool.leftovers()["vm_snapshots"] == []
    assert caplog.messages.count("run 20261122T010000Z-newer in Redis: request is missing") == 1


def test_two_at_once_are_harmless(site: Site) -> None:
    take_snapshot(site, snapshot_name(site.night().run))
    errors: list[Any] = []

    def work() -> None:
        with Session.login("lab", site.settings.pool("lab")) as session:
            found = find_orphans(session, site.context, "lab")
            both.wait()
            errors.extend(each.error for each in remove_orphans(session, site.context, found))

    both = threading.Barrier(2)
    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == [None] * 6
    assert_only_bases(site)


def test_while_the_pool_or_the_store_does_not_answer_nothing_goes(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    take_snapshot(site, snapshot_name(site.night().run))
    before = site.pool.leftovers()

    def away(*_: object) -> None:
        raise ConnectionError

    monkeypatch.setattr(site.repository, "run_names", away)
    monkeypatch.setattr(site.ledger, "runs", away)
    with pytest.raises(ConnectionError):
        clean(site)
    assert site.pool.leftovers()["vdi_snapshots"] == before["vdi_snapshots"]
