"""What the control plane makes of a pool that is not as it was left: one reason a line, nothing silent."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import redis

from infra.simulator import DiskSpec, PoolSpec, Timing, VmSpec
from scheduler.finishing.steps import finish_vm
from scheduler.planning.steps import plan_vm
from scheduler.pool_objects.snapshots import snapshot_name
from scheduler.runs.values import ResultRow, RunResult
from tests.failure_report import run_in_short
from tests.unit.scheduler.conftest import Site
from workers.extents import Plan
from workers.repository import AccessDenied, Repository, StoreUnavailable
from workers.xenapi import Session

MiB = 1 << 20
SPEC = PoolSpec(
    hosts=2,
    vms=(VmSpec("db", (DiskSpec(4 * MiB, "root"), DiskSpec(6 * MiB, "data"))),),
    timing=Timing(login_failure_delay=0.1, data_destroy_wait=0.2, slot_release_delay=0.05),
)
MakeSite = Callable[[PoolSpec], Site]


@pytest.fixture
def site(make_site: MakeSite) -> Site:
    """A pool whose disks have been backed up once."""
    made = make_site(SPEC)
    assert made.night().status == "succeeded"
    return made


def snapshots(site: Site, vdi: str) -> list[dict[str, Any]]:
    return [each for each in site.pool.leftovers()["vdi_snapshots"] if each["snapshot_of"] == vdi]


def assert_clean(site: Site, tasks: int = 0) -> None:
    site.log_out()
    left = site.pool.leftovers()
    assert (left["vm_snapshots"], left["plugged_vbds"], left["sessions"], left["tasks"]) == ([], [], 0, tasks)
    for vdi in site.disks:
        assert [each["type"] for each in snapshots(site, vdi)] == ["cbt_metadata"]


def rows(result: RunResult) -> dict[str, ResultRow]:
    return {row.vdi: row for row in result.disks if row.vdi is not None}


def assert_restores(site: Site, result: RunResult) -> None:
    for vdi in site.disks:
        assert site.restored(rows(result)[vdi].point, vdi) == site.pool.content(vdi)


def destroy_base(site: Site, vdi: str) -> None:
    [base] = snapshots(site, vdi)
    with Session.login("lab", site.settings.pool("lab")) as session:
        session.call("VDI.destroy", session.call("VDI.get_by_uuid", base["uuid"]))


def disable_and_enable(site: Site, vdi: str) -> None:
    with Session.login("lab", site.settings.pool("lab")) as session:
        ref = session.call("VDI.get_by_uuid", vdi)
        session.call("VDI.disable_cbt", ref)
        session.call("VDI.enable_cbt", ref)


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (destroy_base, "the base snapshot is no longer on the pool"),
        (
            lambda site, vdi: site.pool.disable_cbt(vdi),
            "tracking is on from this backup on; it was off before",
        ),
        (disable_and_enable, "chain from the base snapshot is broken (SR_BACKEND_FAILURE_460)"),
        (
            lambda site, vdi: site.pool.add_fault(sm="cbt_snapshot", vdi=vdi),
            "(SR_BACKEND_FAILURE_460): the storage could not begin a new log at a snapshot (VDI_CBT_SNAPSHOT",
        ),
        (
            lambda site, vdi: site.pool.add_fault(
                xapi="VDI.list_changed_blocks",
                object=snapshots(site, vdi)[0]["uuid"],
                failure=["SR_BACKEND_FAILURE_459", "", "Inconsistent bitmaps", ""],
            ),
            "logs are inconsistent (SR_BACKEND_FAILURE_459)",
        ),
    ],
    ids=["base gone", "tracking off", "460", "off while snapshotting", "459"],
)
def test_a_full_says_why_and_only_for_that_disk(
    site: Site, spoil: Callable[[Site, str], None], reason: str
) -> None:
    root, data = site.disks
    spoil(site, data)
    changed = site.pool.write_random(root, blocks=3, seed=5)
    result = site.night()
    assert result.status == "succeeded"
    assert rows(result)[data].mode == "full"
    assert reason in rows(result)[data].reason
    assert rows(result)[data].read_bytes == 6 * MiB
    assert (rows(result)[root].mode, rows(result)[root].read_bytes) == (
        "incremental",
        len(changed) * 65536,
    )
    assert_restores(site, result)
    site.pool.clear_faults()
    again = site.night()
    assert {row.mode for row in again.disks} == {"incremental"}
    assert_clean(site)


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ({"xapi": "VDI.list_changed_blocks", "failure": ["INTERNAL_ERROR", "oops"]}, "INTERNAL_ERROR"),
        (
            {"xapi": "VDI.get_nbd_info", "failure": ["SR_BACKEND_FAILURE_46", "", "gone", ""]},
            "cannot open the disk",
        ),
    ],
)
def test_a_disk_that_fails_leaves_the_other_and_its_own_base_alone(
    site: Site, fault: dict[str, Any], said: str
) -> None:
    root, data = site.disks
    base = snapshots(site, data)
    site.pool.write_random(data, blocks=4, seed=1)
    site.pool.add_fault(**fault, count=1)
    result = site.night()
    assert result.status == "partial"
    [failed] = [row for row in result.disks if row.error]
    assert said in failed.error
    assert failed.point is None
    assert [disk.vdi for disk in site.repository.find_point(good_point(result)).disks] != [root, data]
    assert_clean(site)
    assert failed.vdi != data or snapshots(site, data) == base
    assert_restores(site, site.night())


def good_point(result: RunResult) -> str:
    return next(str(row.point) for row in result.disks if row.point)


def test_a_snapshot_call_whose_answer_is_lost_leaves_exactly_one_snapshot(site: Site) -> None:
    site.pool.add_fault(xapi="VM.snapshot", drop_reply=True)
    result = site.night()
    assert result.status == "succeeded", run_in_short(result)
    assert {row.mode for row in result.disks} == {"incremental"}
    calls = site.pool.log()["calls"]
    assert calls["Async.VM.snapshot"] == 2, "the first night's and this one's"
    assert_clean(site, tasks=1)  # the task whose reference was in the lost answer; XAPI collects it


def test_a_scheduler_that_dies_after_the_snapshot_is_followed_by_one_that_finds_it(site: Site) -> None:
    run = site.submit()
    site.work(run, until=lambda step: step == "plan-vm")
    [vm] = site.pool.vms()
    with Session.login("lab", site.settings.pool("lab")) as session:
        reference = session.call("VM.get_by_uuid", vm["uuid"])
        session.call_async("VM.snapshot", reference, snapshot_name(run), [])
    assert len(site.pool.leftovers()["vm_snapshots"]) == 1
    plan_vm(site.context, run, vm["uuid"])
    plan_vm(site.context, run, vm["uuid"])
    assert len(site.pool.leftovers()["vm_snapshots"]) == 1
    site.work(run, until=lambda step: step == "finish-vm")
    finish_vm(site.context, run, vm["uuid"])
    finish_vm(site.context, run, vm["uuid"])
    runs = [point.run for point in site.repository.points()]  # of one second, perhaps: in either order
    assert len(runs) == 2
    assert runs.count(run) == 1
    assert_clean(site)


def test_a_second_snapshot_that_comes_late_is_removed_with_its_disks(site: Site) -> None:
    run = site.submit()
    site.work(run, until=lambda step: step == "finish-vm")
    [vm] = site.pool.vms()
    with Session.login("lab", site.settings.pool("lab")) as session:
        reference = session.call("VM.get_by_uuid", vm["uuid"])
        session.call_async("VM.snapshot", reference, snapshot_name(run), [])
    assert len(site.pool.leftovers()["vm_snapshots"]) == 2
    finish_vm(site.context, run, vm["uuid"])
    assert_clean(site)


def test_a_disk_that_is_deleted_in_the_middle_leaves_no_snapshot_behind(site: Site) -> None:
    run = site.submit()
    site.work(run, until=lambda step: step == "finish-vm")
    [vm] = site.pool.vms()
    [root, data] = site.disks
    with Session.login("lab", site.settings.pool("lab")) as session:
        session.call("VM.hard_shutdown", session.call("VM.get_by_uuid", vm["uuid"]))
        session.call("VDI.destroy", session.call("VDI.get_by_uuid", data))
    finish_vm(site.context, run, vm["uuid"])
    left = site.pool.leftovers()
    assert left["vm_snapshots"] == []
    assert [each["type"] for each in snapshots(site, root)] == ["cbt_metadata"]
    assert [each["type"] for each in left["vdi_snapshots"] if each["snapshot_of"] != root] == ["cbt_metadata"]
    [first, second] = site.repository.points()
    assert {disk.vdi for disk in second.disks} == {disk.vdi for disk in first.disks} == {root, data}


def test_a_cancelled_run_commits_nothing_and_cleans_up(site: Site) -> None:
    before = list(site.repository.points())
    site.pool.write_random(site.disks[0], blocks=4, seed=1)
    run = site.submit()
    site.work(run, until=lambda step: step == "finish-vm")
    site.ledger.cancel(run)
    result = None
    for _ in range(60):  # the step that was seen above is published again after some seconds
        result = site.work(run)
        if result:
            break
    assert result is not None
    assert result.status == "cancelled"
    assert [row.error for row in result.disks] == ["not committed: the run was cancelled"] * 2
    assert list(site.repository.points()) == before
    assert_clean(site)


def test_growth_is_read_where_it_was_written_and_restored_at_its_size(site: Site) -> None:
    [root, _] = site.disks
    site.pool.resize(root, 8 * MiB)
    written = site.pool.write_random(root, blocks=5, seed=3)
    result = site.night()
    assert rows(result)[root].mode == "incremental"
    assert rows(result)[root].read_bytes == len(written) * 65536
    assert_restores(site, result)
    assert len(site.restored(rows(result)[root].point, root)) == 8 * MiB


def test_nights_without_end_keep_one_base_and_every_point(site: Site) -> None:
    points = {}
    for number in range(4):
        for vdi in site.disks:
            site.pool.write_random(vdi, blocks=3, seed=number)
        result = site.night()
        for vdi in site.disks:
            points[rows(result)[vdi].point, vdi] = site.pool.content(vdi)
        assert_clean(site)
    for (point, vdi), content in points.items():
        assert site.restored(point, vdi) == content


def test_a_vm_without_disks_is_no_failure(make_site: MakeSite) -> None:
    site = make_site(dataclasses.replace(SPEC, vms=(VmSpec("empty", ()),)))
    result = site.night()
    assert result.status == "succeeded"
    assert [(row.vdi, row.error, row.reason) for row in result.disks] == [
        (None, None, "skipped: the VM has no disk")
    ]
    assert site.pool.leftovers()["vm_snapshots"] == []


def test_disks_on_storage_without_tracking_are_backed_up_in_full_each_night(make_site: MakeSite) -> None:
    site = make_site(dataclasses.replace(SPEC, sr_has_cbt=False))
    for _ in range(2):
        result = site.night()
        assert result.status == "succeeded", run_in_short(result)
        assert {row.mode for row in result.disks} == {"full"}
        assert all("the storage cannot track changed blocks" in row.reason for row in result.disks)
        assert_restores(site, result)
        left = site.pool.leftovers()
        assert (left["vm_snapshots"], left["vdi_snapshots"]) == ([], [])


def test_a_damaged_restore_point_is_said_and_the_next_backup_is_a_full(site: Site) -> None:
    [path] = [each for each in (site.folder / "store" / "points").rglob("*") if each.is_file()]
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    result = site.night()
    assert {row.mode for row in result.disks} == {"full"}
    assert all("last restore point cannot be read" in row.reason for row in result.disks)
    damaged: list[str] = []
    good = list(site.repository.points(on_damage=lambda error: damaged.append(error.object)))
    assert [point.run for point in good] == [result.run]
    assert damaged == [str(path.relative_to(site.folder / "store"))]
    assert_restores(site, result)


@pytest.mark.parametrize("step", ["plan_run", "plan_vm", "finish_vm", "end_run"])
def test_a_step_that_breaks_in_an_unforeseen_way_ends_the_run_all_the_same(
    site: Site, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = [point.id for point in site.repository.points()]

    def broken(*_: object) -> None:
        raise KeyError("secret")

    monkeypatch.setattr(f"scheduler.steps.{step}", broken)
    result = site.night()
    assert result.status == "failed"
    lines = [result.error, *(row.error for row in result.disks)]
    assert any("unexpected KeyError in" in line for line in lines if line)
    assert not any("secret" in line for line in lines if line)
    assert step == "end_run" or [point.id for point in site.repository.points()] == before


def test_a_clean_up_that_breaks_in_an_unforeseen_way_hides_no_restore_point(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise KeyError("secret")

    monkeypatch.setattr("scheduler.finishing.steps.clean_up_vm", broken)
    result = site.night()
    assert result.status == "partial"
    *disks, vm = result.disks
    assert [row.vdi for row in disks] == site.disks
    assert_restores(site, result)
    assert (vm.vdi, vm.point) == (None, None)
    assert "unexpected KeyError in finish-vm" in str(vm.error)


def test_what_could_not_be_removed_from_the_pool_is_said_in_the_result(site: Site) -> None:
    site.pool.add_fault(xapi="VM.destroy", failure=["INTERNAL_ERROR", "oops"], count=1)
    result = site.night()
    assert result.status == "succeeded"
    [warning] = result.warnings
    assert 'VM "db": not everything of this run could be removed' in warning
    assert site.night().warnings == ()
    assert_clean(site)


def test_a_vm_snapshot_that_another_fleet_made_is_left_alone(site: Site) -> None:
    [vm] = site.pool.vms()
    with Session.login("lab", site.settings.pool("lab")) as session:
        reference = session.call("VM.get_by_uuid", vm["uuid"])
        session.call_async("VM.snapshot", reference, snapshot_name("20261122T010203Z-3fa9c1"))
    [theirs] = site.pool.leftovers()["vm_snapshots"]
    assert site.night().warnings == ()
    assert site.pool.leftovers()["vm_snapshots"] == [theirs]


def test_a_pool_that_is_away_for_a_moment_is_cleaned_up_all_the_same(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scheduler.retry.PAUSES", (0.01, 0.01))
    site.pool.add_fault(xapi="VM.destroy", drop_reply=True, count=1)
    assert site.night().warnings == ()
    assert_clean(site, tasks=1)


def test_a_result_that_cannot_be_kept_still_names_every_disk(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> None:
        raise AccessDenied("the store denies put")

    monkeypatch.setattr(site.repository, "close_run", refused)
    result = site.night()
    assert (result.status, result.error) == ("failed", "the store denies put")
    assert_restores(site, result)


def test_the_base_of_a_run_that_the_ledger_has_forgotten_is_removed(
    site: Site, redis_client: redis.Redis
) -> None:
    """A week after its end a run is forgotten, and so is every run when Redis is emptied."""
    for run in site.ledger.runs():
        redis_client.delete(f"cbtfleet:run:{run}")
    result = site.night()
    assert (result.status, result.warnings) == ("succeeded", ())
    assert_clean(site)


def test_a_plan_that_came_out_differently_when_it_was_made_again_fails_that_disk_alone(site: Site) -> None:
    [root, data] = site.disks
    run = site.submit()
    site.work(run, until=lambda step: step == "plan-vm")
    site.repository.keep_plan(run, data, Plan.full(6 * MiB))  # as a scheduler did that died right after
    result = site.work(run)
    assert result is not None
    assert result.status == "partial"
    assert rows(result)[root].point is not None
    assert "exists already with another content" in rows(result)[data].error
    assert_clean(site)


@pytest.mark.parametrize("due", ["streaming", "finished"])
def test_a_plan_that_is_due_again_after_the_vm_was_handed_over_changes_nothing(site: Site, due: str) -> None:
    """Its scheduler died after the hand-over, before it could say that the step was done."""
    run = site.submit()
    [vm] = site.pool.vms()
    site.work(run, until=lambda step: step == ("finish-vm" if due == "streaming" else "end-run"))
    facts = site.ledger.vm_facts(run, vm["uuid"])
    site.pool.clear_log()
    plan_vm(site.context, run, vm["uuid"])
    assert site.pool.log()["calls"] == {}
    assert site.ledger.vm_facts(run, vm["uuid"]) == facts


@pytest.mark.parametrize("call", ["write_segments", "commit_point"])
def test_a_store_that_is_away_for_a_moment_does_not_cost_the_night(
    site: Site, call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = getattr(Repository, call)
    failures = [StoreUnavailable("the store is away")]

    def away_once(*arguments: object, **named: object) -> object:
        if failures:
            raise failures.pop()
        return whole(*arguments, **named)

    monkeypatch.setattr(Repository, call, away_once)
    monkeypatch.setattr("scheduler.retry.PAUSES", (0.0,))
    result = site.night()
    assert failures == []
    assert result.status == "succeeded", run_in_short(result)
    assert_restores(site, result)
    assert_clean(site)


def test_a_run_whose_result_the_store_does_not_take_ends_when_the_store_is_back(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Repository.close_run
    failures = [StoreUnavailable("the store is away")] * 3

    def away(*arguments: object) -> None:
        if failures:
            raise failures.pop()
        whole(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(Repository, "close_run", away)
    monkeypatch.setattr("scheduler.retry.PAUSES", (0.0,))
    monkeypatch.setattr("scheduler.steps.END_AGAIN", 0.1)
    result = site.night()
    assert failures == []
    assert result.status == "succeeded", run_in_short(result)
    assert not site.repository.run_is_open(result.run)
