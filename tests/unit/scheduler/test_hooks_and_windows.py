"""A policy's night on a simulated pool: hooks around the snapshot, and a window that ends in the middle."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import redis

from infra.simulator import DiskSpec, PoolSpec, Timing, VmSpec
from scheduler.planning.steps import plan_vm
from scheduler.policies.policy import parse_policies
from scheduler.runs.resuming import resume_run
from scheduler.runs.triggers import Triggers
from scheduler.steps import do_step
from tests.unit.scheduler.conftest import Site
from workers.messages import Step
from workers.stream.stream import run_stream

MiB = 1 << 20
TIMING = Timing(login_failure_delay=0.1, data_destroy_wait=0.2, slot_release_delay=0.05)
ONE_VM = PoolSpec(
    hosts=1, vms=(VmSpec("db", (DiskSpec(2 * MiB, "root"), DiskSpec(2 * MiB, "data"))),), timing=TIMING
)
MakeSite = Callable[[PoolSpec], Site]


def with_policy(site: Site, **keys: Any) -> Site:
    """The site, with a policy `nightly` that is due every minute."""
    policy = {"pool": "lab", "include": {"names": ["*"]}, "schedule": "* * * * *", **keys}
    site.settings = site.settings.model_copy(update={"policies": {"nightly": policy}})
    site.context = replace(site.context, settings=site.settings)
    return site


def begin(site: Site) -> tuple[Triggers, str]:
    """The night of the minute that it is."""
    nights = Triggers(site.context, parse_policies(site.settings), datetime.now(UTC) - timedelta(hours=1))
    nights.look(datetime.now(UTC))
    assert nights.failures == 0
    [run] = site.ledger.runs()
    return nights, run


def said(site: Site, hook: str) -> list[dict[str, Any]]:
    """What the recorder of `recording` was given, call by call."""
    file = site.folder / hook
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def recording(site: Site, hook: str, then: str = "true") -> list[str]:
    return ["/bin/sh", "-c", f"cat >> {site.folder}/{hook}; {then}"]


def assert_clean(site: Site) -> None:
    left = site.pool.leftovers()
    assert (left["vm_snapshots"], left["plugged_vbds"], left["tasks"]) == ([], [], 0)


def test_a_vms_snapshot_is_taken_between_its_hooks(make_site: MakeSite) -> None:
    site = make_site(ONE_VM)
    [vm] = site.pool.vms()
    with_policy(
        site,
        hooks={
            "before_snapshot": recording(site, "before", f"date +%s.%N > {site.folder}/frozen"),
            "after_snapshot": recording(site, "after"),
        },
    )
    _, run = begin(site)
    result = site.work(run)
    assert result is not None
    assert (result.status, result.warnings, result.policy) == ("succeeded", (), "nightly")
    assert result.slot.endswith(":00Z")
    for row in result.disks:
        assert row.name in ("root", "data")
        assert row.bytes_per_second == round(row.read_bytes / row.seconds)
    [before], [after] = said(site, "before"), said(site, "after")
    assert {key: before[key] for key in ("hook", "run", "policy", "pool", "vm", "vm_uuid")} == {
        "hook": "before_snapshot",
        "run": run,
        "policy": "nightly",
        "pool": "lab",
        "vm": "db",
        "vm_uuid": vm["uuid"],
    }
    assert sorted((disk["name"], disk["virtual_size"]) for disk in before["disks"]) == [
        ("data", 2 * MiB),
        ("root", 2 * MiB),
    ]
    assert (after["hook"], after["error"], after["before_snapshot"]) == ("after_snapshot", None, "succeeded")
    [point] = site.repository.points()
    assert (after["time"], len(after["snapshot"]), point.policy) == (point.time, 36, "nightly")


@pytest.mark.parametrize("on_failure", ["skip", "continue"])
def test_a_before_hook_that_fails(make_site: MakeSite, on_failure: str) -> None:
    site = make_site(ONE_VM)
    hooks = {
        "before_snapshot": ["/bin/sh", "-c", "echo cannot freeze; exit 7"],
        "after_snapshot": recording(site, "after"),
        "on_failure": on_failure,
    }
    _, run = begin(with_policy(site, hooks=hooks))
    result = site.work(run)
    assert result is not None
    why = "hook before_snapshot (/bin/sh) ended with code 7: cannot freeze"
    [after] = said(site, "after")
    assert after["before_snapshot"] == "failed"
    if on_failure == "skip":
        [row] = result.disks
        assert (result.status, row.error) == ("failed", f'VM "db": not backed up, as its {why}')
        assert after["snapshot"] is None
        assert list(site.repository.points()) == []
    else:
        assert result.status == "succeeded"
        assert result.warnings == (f'VM "db": backed up all the same, but its {why}',)
    assert_clean(site)


def test_the_after_hook_runs_when_the_snapshot_fails(make_site: MakeSite) -> None:
    site = make_site(ONE_VM)
    hooks = {
        "before_snapshot": recording(site, "before"),
        "after_snapshot": recording(site, "after", "exit 1"),
    }
    site.pool.add_fault(xapi="VM.snapshot", failure=["SR_BACKEND_FAILURE_44", "", "full", ""])
    _, run = begin(with_policy(site, hooks=hooks))
    result = site.work(run)
    assert result is not None
    [row] = result.disks
    [after] = said(site, "after")
    assert "SR_BACKEND_FAILURE_44" in row.error
    assert "SR_BACKEND_FAILURE_44" in after["error"]
    assert after["before_snapshot"] == "succeeded"


def test_a_scheduler_that_dies_between_the_hooks_leaves_nothing_frozen(make_site: MakeSite) -> None:
    site = make_site(ONE_VM)
    hooks = {"before_snapshot": recording(site, "before"), "after_snapshot": recording(site, "after")}
    _, run = begin(with_policy(site, hooks=hooks))
    assert site.work(run, until=lambda step: step == "plan-vm") is None
    [vm] = site.pool.vms()

    class Killed(BaseException):
        """Ends this process's work without any of its clean-up: after it, nothing more may be written."""

    def die(*_: object) -> None:
        raise Killed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("scheduler.planning.snapshot_hooks.run_hook", die)
        with pytest.raises(Killed):
            plan_vm(site.context, run, vm["uuid"])
    site.ledger.cancel(run)
    result = site.work(run)
    assert result is not None
    assert result.status == "cancelled"
    [after] = said(site, "after")
    assert (after["error"], said(site, "before")) == ("the scheduler died", [])


def test_a_run_by_hand_has_no_hooks(make_site: MakeSite) -> None:
    site = make_site(ONE_VM)
    with_policy(site, hooks={"before_snapshot": recording(site, "before")})
    result = site.night()
    assert (result.status, result.slot, said(site, "before")) == ("succeeded", None, [])


TWO_VMS = PoolSpec(
    hosts=1,
    vms=(
        VmSpec("db", (DiskSpec(2 * MiB, "root"), DiskSpec(2 * MiB, "data"))),
        VmSpec("web", (DiskSpec(2 * MiB, "root"),)),
    ),
    timing=TIMING,
)


@pytest.mark.parametrize("redis_lost", [False, True])
def test_at_the_windows_end_the_rest_is_stopped_and_what_is_done_is_kept(
    make_site: MakeSite, redis_client: redis.Redis, redis_lost: bool
) -> None:
    """One disk of `db` is done, the other is not; `web` was not even snapshotted."""
    site = make_site(TWO_VMS)
    now = datetime.now(UTC)
    end = now + timedelta(hours=2)
    nights, run = begin(with_policy(site, window={"end": f"{end:%H:%M}"}))
    db, web = sorted(site.pool.vms(), key=lambda vm: str(vm["name"]))
    assert site.work(run, until=lambda step: step == "plan-vm") is None
    plan_vm(site.context, run, db["uuid"])
    done = None
    while done is None:
        site.ledger.node_alive("node", 4)
        site.ledger.sweep()
        site.count_hosts()
        for grant in site.ledger.admit(limit=1):
            run_stream(site.stream_context, grant)
            done = grant.disk
        site.ledger.wait_for_work(0.1)
    nights.look(now)
    assert {disk.state for disk in site.ledger.progress(run).disks} == {"complete", "streaming"}

    over = now + timedelta(hours=2, minutes=1)
    if redis_lost:
        redis_client.flushall()
        site.ledger.found()
        assert resume_run(site.ledger, site.repository, run)
        assert site.work(run, until=lambda step: step == "plan-vm") is None
    else:
        nights.look(over)

    class Clock(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime:  # type: ignore[override]
            return over

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("scheduler.planning.steps.datetime", Clock)
        for vm in (web, db):
            do_step(site.context, Step(run, "plan-vm", vm["uuid"]))
        nights.look(over)
        result = site.work(run)
    assert result is not None
    line = f"stopped at the window's end {end:%H:%M} UTC"
    rows = {row.vdi or row.vm: row for row in result.disks}
    assert result.status == "partial"
    assert rows.pop("web").error == f'VM "web": {line}'
    point = rows[done].point
    assert (rows[done].error, rows.pop(done).mode) == (None, "full")
    [stopped] = rows.values()
    assert (stopped.error, stopped.point) == (line, None)
    assert site.restored(point, done) == site.pool.content(done)
    assert_clean(site)


def test_a_vm_that_waits_for_its_permit_gives_up_at_the_windows_end(
    make_site: MakeSite, redis_client: redis.Redis
) -> None:
    """It is called when it has its permit; that the window is over is no event."""
    site = make_site(TWO_VMS)
    end = (datetime.now(UTC) + timedelta(minutes=30)).replace(second=0, microsecond=0)
    _, run = begin(with_policy(site, window={"end": f"{end:%H:%M}"}))
    db, web = sorted(site.pool.vms(), key=lambda vm: str(vm["name"]))
    assert site.work(run, until=lambda step: step == "plan-vm") is None
    plan_vm(site.context, run, db["uuid"])
    assert not do_step(site.context, Step(run, "plan-vm", web["uuid"]))
    due = redis_client.zscore("cbtfleet:steps", f"{run}/plan-vm/{web['uuid']}")
    assert due is not None
    assert 0 < due / 1000 - end.timestamp() < 2
