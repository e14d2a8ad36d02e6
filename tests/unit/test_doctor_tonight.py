"""The doctor and the next run, by hand-made records: which disks will be read in full, which are left out?"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from scheduler.checks.drives import choose
from scheduler.checks.messages import PoolMessages
from scheduler.checks.pool_facts import PoolFacts
from scheduler.checks.tonight import UNPLUGGED, DiskTonight, check_tonight, forecast
from scheduler.planning import full_reason
from scheduler.planning.full_reason import CANNOT_TRACK, Reason
from scheduler.policies.policy import Untracked
from tests.unit.one_disk import POLICY, facts, last_point
from workers.repository import NewestDisks


def tonight(pool: PoolFacts, points: NewestDisks, without_tracking: Untracked = "full") -> DiskTonight:
    """What becomes of the one disk."""
    [vm] = choose("nightly", POLICY, pool)
    [found] = forecast(pool, without_tracking, [(vm, points)])
    return found


NO_POINTS = NewestDisks({})


def test_an_incremental_backup_needs_no_reason() -> None:
    found = tonight(facts({}, base={}), last_point()).outlook
    assert (found.mode, found.why) == ("incremental", None)


@pytest.mark.parametrize(
    ("live", "base", "last", "records", "mode", "reason"),
    [
        ({}, {}, NO_POINTS, {}, "full", full_reason.FIRST),
        ({}, {}, NewestDisks({}, damage="points/1: torn"), {}, "full", full_reason.UNREADABLE),
        ({}, None, last_point(), {}, "full", full_reason.BASE_GONE),
        ({}, {"SR": "elsewhere"}, last_point(), {}, "full", full_reason.MOVED),
        ({}, {"cbt_enabled": False}, last_point(), {}, "full", full_reason.BASE_UNTRACKED),
        ({}, {}, last_point(size=2000), {}, "full", full_reason.SMALLER),
        ({"cbt_enabled": False}, {}, last_point(), {}, "full", full_reason.SWITCHED_ON),
        (
            {"cbt_enabled": False, "sm_config": {"type": "raw"}},
            {},
            last_point(),
            {},
            "full",
            CANNOT_TRACK["SR_BACKEND_FAILURE_66"],
        ),
        (
            {"cbt_enabled": False},
            {},
            last_point(),
            {"SM": {"sm": {"type": "nfs", "features": {"VDI_SNAPSHOT": "1"}}}},
            "full",
            CANNOT_TRACK["SR_OPERATION_NOT_SUPPORTED"],
        ),
        (
            {"cbt_enabled": False},
            {},
            last_point(),
            {"pool": {"pool": {"restrictions": {"restrict_cbt": "true"}}}},
            "full",
            CANNOT_TRACK["LICENCE_RESTRICTION"],
        ),
        (
            {"cbt_enabled": False, "type": "suspend"},
            {},
            last_point(),
            {},
            "full",
            CANNOT_TRACK["VDI_INCOMPATIBLE_TYPE"],
        ),
        ({}, {}, last_point(), {"PBD": {}}, "impossible", UNPLUGGED),
        (
            {},
            {},
            last_point(),
            {"host_metrics": {"metrics": {"live": False}}},
            "impossible",
            UNPLUGGED,
        ),
    ],
)
def test_why_a_disk_is_read_in_full_or_not_at_all(
    live: dict[str, Any],
    base: dict[str, Any] | None,
    last: NewestDisks,
    records: dict[str, Any],
    mode: str,
    reason: Reason,
) -> None:
    pool = facts(live, base=base, **records)
    pool.messages = PoolMessages("2026-01-01T00:00:00Z", {})
    found = tonight(pool, last)
    assert (found.outlook.mode, found.outlook.why) == (mode, reason)
    [_, group, line] = check_tonight("nightly", [found], all_of_them=False)
    assert reason.said in group.said
    assert line.said == 'VM "web", disk data' + (f": {last.damage}" if last.damage else "")
    assert (group.state == "ok") == (group.todo == "")


def message(name: str, time: str) -> dict[str, Any]:
    return {"name": name, "timestamp": time}


@pytest.mark.parametrize(
    ("messages", "mode"),
    [
        ((message("VM_STARTED", "20260102T00:00:00Z"),), "full"),
        (
            (message("VM_STARTED", "20260102T00:00:00Z"), message("VM_SHUTDOWN", "20260102T00:00:00Z")),
            "incremental",
        ),
        ((message("VM_SHUTDOWN", "20260101T11:59:59Z"),), "full"),
        ((), "full"),
        (None, "incremental"),
    ],
    ids=["started", "shut down in the same second", "shut down before the base", "none", "no messages"],
)
def test_a_vm_that_is_off_was_shut_down_or_its_host_died(
    messages: tuple[dict[str, Any], ...] | None, mode: str
) -> None:
    pool = facts({}, base={"snapshot_time": "20260101T12:00:00Z"})
    pool.records["VM"]["vm"]["power_state"] = "Halted"  # type: ignore[index]
    by_vm = {"vm-1": messages or ()}
    pool.messages = PoolMessages("2026-01-01T00:00:00Z", by_vm, kept=messages is not None)
    found = tonight(pool, last_point())
    assert found.outlook.mode == mode
    assert found.outlook.why == (full_reason.MAY_LACK_WRITES if mode == "full" else None)


def test_messages_that_were_not_read_leave_a_question_open_and_no_more() -> None:
    pool = facts({}, base={"snapshot_time": "20260101T12:00:00Z"})
    pool.failures["messages"] = "pool lab: message.get_since failed: it does"
    assert [
        check.name for check in check_tonight("nightly", [tonight(pool, last_point())], all_of_them=True)
    ] == ["policy.tonight"]
    pool.records["VM"]["vm"]["power_state"] = "Halted"  # type: ignore[index]
    found = tonight(pool, last_point())
    assert found.outlook.mode == "incremental"
    [count, unknown] = check_tonight("nightly", [found], all_of_them=False)
    assert (count.state, count.said) == ("ok", "the next run: 1 incremental, 0 full")
    assert (unknown.state, unknown.name) == ("warning", "policy.tonight")
    assert unknown.said.startswith("1 disk of VMs that are off may be read in full after all")
    assert unknown.said.endswith(pool.failures["messages"])


def test_of_many_disks_a_few_are_named_and_with_verbose_all() -> None:
    pool = facts({}, base={})
    disks = [replace(tonight(pool, NO_POINTS), vm_name=f"web{n}") for n in range(7)]
    disks += [tonight(pool, last_point())] * 3
    found = check_tonight("nightly", disks, all_of_them=False)
    assert found[0].said == "the next run: 3 incremental, 7 full"
    assert found[1].said == f"7 disks will be read in full: {full_reason.FIRST.said}"
    assert len(found) == 2 + 5
    assert len(check_tonight("nightly", disks, all_of_them=True)) == 2 + 7


@pytest.mark.parametrize(
    ("without_tracking", "mode", "name", "state"),
    [
        ("full", "full", "policy.full", "warning"),
        ("skip", "skipped", "policy.skipped", "warning"),
        ("fail", "impossible", "policy.failing", "failed"),
    ],
)
def test_what_cannot_be_tracked_is_the_policys_choice(
    without_tracking: Untracked, mode: str, name: str, state: str
) -> None:
    raw = {"cbt_enabled": False, "sm_config": {"type": "raw"}}
    pool = facts(raw, base={})
    pool.messages = PoolMessages("2026-01-01T00:00:00Z", {})
    found = tonight(pool, last_point(), without_tracking)
    assert (found.outlook.mode, found.outlook.why) == (mode, CANNOT_TRACK["SR_BACKEND_FAILURE_66"])
    _, group, _ = check_tonight("nightly", [found], all_of_them=False)
    assert (group.name, group.state) == (name, state)
