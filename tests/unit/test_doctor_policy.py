"""The doctor and a policy, by hand-made records: what would the next run do, and who is overdue?"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from scheduler.checks import tonight
from scheduler.checks.check import Check
from scheduler.checks.drives import Chosen, choose
from scheduler.checks.policy import check_overdue, check_schedule, check_vms, last_due
from scheduler.checks.pool_facts import PoolFacts
from scheduler.checks.tonight import Last, Outlook, Reason, check_skipped, check_tonight
from scheduler.planning.selection import VmChoice
from scheduler.policies.policy import Policy, Selector, Untracked
from scheduler.runs.triggers import slot_run
from workers.repository import DiskPoint, ListedPoint
from workers.settings import PoolSettings

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
LAST_NIGHT = datetime(2026, 11, 22, 1, tzinfo=UTC)
BEFORE_THAT = LAST_NIGHT - timedelta(days=1)
POLICY = Policy.model_validate(
    {"pool": "lab", "include": {"tags": ["backup"]}, "schedule": "0 1 * * *", "window": {"end": "06:00"}}
)

LIVE = {
    "uuid": "live",
    "name_label": "data",
    "SR": "sr",
    "virtual_size": "1000",
    "type": "user",
    "cbt_enabled": True,
    "is_a_snapshot": False,
    "other_config": {},
}
BASE = LIVE | {"uuid": "base", "type": "cbt_metadata", "is_a_snapshot": True}


def facts(live: dict[str, Any], *, base: dict[str, Any] | None = None, **records: Any) -> PoolFacts:
    """A pool of one host, one VM and one disk, with its base unless it is told otherwise."""
    found = PoolFacts(
        "lab", PoolSettings.model_validate({"url": "https://lab", "username": "root", "password": "x"})
    )
    disks = {"live": LIVE | live}
    if base is not None:
        disks["base"] = BASE | base
    found.records = {
        "pool": {"pool": {"restrictions": {}}},
        "host": {"host": {"uuid": "host-1", "name_label": "host1", "metrics": "metrics"}},
        "host_metrics": {"metrics": {"live": True}},
        "SM": {"sm": {"type": "nfs", "features": {"VDI_CONFIG_CBT": "1", "VDI_SNAPSHOT": "1"}}},
        "SR": {"sr": {"name_label": "shared", "type": "nfs", "uuid": "sr-1"}},
        "PBD": {"pbd": {"host": "host", "SR": "sr", "currently_attached": True}},
        "VM": {
            "vm": {"uuid": "vm-1", "name_label": "web", "tags": ["backup"], "VBDs": ["vbd"]},
            "dom0": {"uuid": "dom0", "name_label": "dom0", "tags": [], "is_control_domain": True, "VBDs": []},
        },
        "VBD": {"vbd": {"VM": "vm", "VDI": "live", "type": "Disk", "empty": False, "userdevice": "0"}},
        "VDI": disks,
    } | records
    return found


def last_point(snapshot: str = "base", size: int = 1000) -> Last:
    point = DiskPoint("live", "data", "0", size, snapshot, "sr-1", "full", None, 0, 0, 0, ())
    return {"live": point}


def test_an_incremental_backup_needs_no_reason() -> None:
    found = Outlook(facts({}, base={})).of("vm-1", "web", "live", last_point())
    assert (found.mode, found.reason) == ("incremental", None)


@pytest.mark.parametrize(
    ("live", "base", "last", "records", "mode", "reason"),
    [
        ({}, {}, {}, {}, "full", tonight.FIRST),
        ({}, {}, None, {}, "full", tonight.UNREADABLE),
        ({}, None, last_point(), {}, "full", tonight.BASE_GONE),
        ({}, {"SR": "elsewhere"}, last_point(), {}, "full", tonight.MOVED),
        ({}, {"cbt_enabled": False}, last_point(), {}, "full", tonight.BASE_OFF),
        ({}, {}, last_point(size=2000), {}, "full", tonight.SHRUNK),
        ({"cbt_enabled": False}, {}, last_point(), {}, "full", tonight.OFF),
        ({"cbt_enabled": False, "sm_config": {"type": "raw"}}, {}, last_point(), {}, "full", tonight.RAW),
        (
            {"cbt_enabled": False},
            {},
            last_point(),
            {"SM": {"sm": {"type": "nfs", "features": {"VDI_SNAPSHOT": "1"}}}},
            "full",
            tonight.NO_FEATURE,
        ),
        (
            {"cbt_enabled": False},
            {},
            last_point(),
            {"pool": {"pool": {"restrictions": {"restrict_cbt": "true"}}}},
            "full",
            tonight.NO_LICENCE,
        ),
        (
            {"cbt_enabled": False, "type": "suspend"},
            {},
            last_point(),
            {},
            "full",
            tonight.ODD_TYPE,
        ),
        ({}, {}, last_point(), {"PBD": {}}, "impossible", tonight.UNPLUGGED),
        (
            {},
            {},
            last_point(),
            {"host_metrics": {"metrics": {"live": False}}},
            "impossible",
            tonight.UNPLUGGED,
        ),
    ],
)
def test_why_a_disk_is_read_in_full_or_not_at_all(
    live: dict[str, Any],
    base: dict[str, Any] | None,
    last: Last | None,
    records: dict[str, Any],
    mode: str,
    reason: Reason,
) -> None:
    found = Outlook(facts(live, base=base, **records)).of("vm-1", "web", "live", last)
    assert (found.mode, found.reason) == (mode, reason)
    [_, group, line] = check_tonight("nightly", [found], all_of_them=False)
    assert reason.said in group.said
    assert line.said == 'VM "web", disk data'
    assert (group.state == "ok") == (group.todo == "")


def test_of_many_disks_a_few_are_named_and_with_verbose_all() -> None:
    outlook = Outlook(facts({}, base={}))
    disks = [outlook.of(f"vm-{n}", f"web{n}", "live", {}) for n in range(7)]
    disks += [outlook.of("vm-9", "db", "live", last_point())] * 3
    found = check_tonight("nightly", disks, all_of_them=False)
    assert found[0].said == "the next run: 3 incremental, 7 full"
    assert found[1].said == f"7 disks will be read in full: {tonight.FIRST.said}"
    assert len(found) == 2 + 5
    assert len(check_tonight("nightly", disks, all_of_them=True)) == 2 + 7


def test_the_policys_vms_and_their_disks() -> None:
    found = choose("nightly", POLICY, facts({}, base={}))
    assert [(each.vm.name, each.disks) for each in found] == [("web", ("live",))]
    [check] = check_vms("nightly", found)
    assert (check.state, check.said) == ("ok", "1 VM with 1 disk to back up")
    [check] = check_vms("nightly", [])
    assert (check.state, "chooses no VM" in check.said) == ("warning", True)


@pytest.mark.parametrize(
    ("live", "vbd", "state", "said"),
    [
        ({"sharable": True}, {}, "warning", "several VMs may write to it"),
        ({"on_boot": "reset"}, {}, "warning", "it is reset at every boot"),
        ({"managed": False}, {}, "warning", "XAPI does not manage this disk"),
        ({"missing": True}, {}, "warning", "its storage repository no longer has it"),
        ({"tags": ["cbtfleet:exclude"]}, {}, "ok", "excluded by its tag cbtfleet:exclude"),
        ({"name_label": "scratch-1"}, {}, "ok", "excluded by the policy, by its name"),
        ({}, {"type": "CD", "empty": True, "VDI": "OpaqueRef:NULL"}, "ok", "an empty CD drive"),
    ],
)
def test_drives_that_are_left_out_and_whether_somebody_asked_for_it(
    live: dict[str, Any], vbd: dict[str, Any], state: str, said: str
) -> None:
    policy = POLICY.model_copy(update={"exclude_disks": Selector(names=("scratch-*",))})
    pool = facts(live)
    pool.records["VBD"] = {"vbd": pool.records["VBD"]["vbd"] | vbd}  # type: ignore[operator]
    chosen = choose("nightly", policy, pool)
    assert chosen[0].disks == ()
    found = check_skipped("nightly", chosen, all_of_them=False)
    assert found[0].said.startswith("1 drive left out: ")
    assert said in found[0].said
    assert {check.state for check in found} == {state}
    assert len(found) == (2 if state == "warning" else 1)
    assert ("tag it cbtfleet:exclude" in found[0].todo) == (state == "warning")


def test_a_disk_of_two_vms_is_backed_up_once() -> None:
    pool = facts({"VBDs": ["vbd", "vbd2"]})
    vm = pool.records["VM"]["vm"]
    other = {**vm, "uuid": "vm-2", "name_label": "zoo", "VBDs": ["vbd2"]}
    pool.records["VM"] = {"vm": vm, "vm2": other}
    pool.records["VBD"] = {
        "vbd": pool.records["VBD"]["vbd"],
        "vbd2": {**pool.records["VBD"]["vbd"], "VM": "vm2"},
    }
    chosen = choose("nightly", POLICY, pool)
    assert [each.disks for each in chosen] == [("live",), ()]
    [check] = check_skipped("nightly", chosen, all_of_them=False)
    assert (check.state, "backs it up with another VM" in check.said) == ("ok", True)


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
    found = Outlook(facts(raw, base={}), without_tracking).of("vm-1", "web", "live", last_point())
    assert (found.mode, found.reason) == (mode, tonight.RAW)
    _, group, _ = check_tonight("nightly", [found], all_of_them=False)
    assert (group.name, group.state) == (name, state)


def test_the_next_run() -> None:
    [check] = check_schedule("nightly", POLICY, NOW)
    assert check.said == "next run 2026-11-23 01:00 UTC, stopped at 06:00"
    [check] = check_schedule("nightly", POLICY.model_copy(update={"schedule": None}), NOW)
    assert check.said.startswith("no schedule")


# Who is overdue

RUNS = [slot_run("nightly", LAST_NIGHT), slot_run("nightly", BEFORE_THAT)]


@pytest.mark.parametrize(
    ("runs", "open_runs", "now", "due"),
    [
        (RUNS, [], NOW, LAST_NIGHT),
        (RUNS, RUNS[:1], NOW, BEFORE_THAT),  # last night's still goes on
        (RUNS[1:], [], NOW, LAST_NIGHT),  # it never began
        (RUNS[1:], [], LAST_NIGHT + timedelta(minutes=1), BEFORE_THAT),  # it may begin any moment
        (["20261121T090000Z-0011aabb"], [], NOW, None),  # began by hand: no schedule was followed yet
        ([], [], NOW, None),
    ],
)
def test_the_slot_whose_run_should_have_ended(
    runs: list[str], open_runs: list[str], now: datetime, due: datetime | None
) -> None:
    assert last_due("nightly", POLICY, runs, open_runs, now) == due


def overdue(newest: dict[str, datetime | None], *, began: bool = True, few: bool = True) -> list[Check]:
    chosen = [Chosen(VmChoice(name, name, name), ("disk",)) for name in newest]
    points: dict[str, Sequence[ListedPoint]] = {
        name: [ListedPoint(name, time, "key")] for name, time in newest.items() if time is not None
    }
    return check_overdue(
        "nightly", POLICY, chosen, points, LAST_NIGHT, began=began, all_of_them=not few, now=NOW
    )


def test_a_vm_with_a_point_of_the_last_run_is_well() -> None:
    [check] = overdue({"web": LAST_NIGHT + timedelta(minutes=3), "db": NOW})
    assert (check.state, check.said) == (
        "ok",
        "every VM has a restore point since the run of 2026-11-22 01:00 UTC",
    )


def test_vms_that_are_overdue_the_worst_first() -> None:
    head, first, second = overdue(
        {"web": BEFORE_THAT + timedelta(minutes=3), "db": None, "mail": LAST_NIGHT + timedelta(hours=1)}
    )
    assert head.said == "2 VMs without a restore point since the run of 2026-11-22 01:00 UTC"
    assert (first.about, first.said) == ("db", 'VM "db": no restore point at all')
    assert (second.about, second.said) == ("web", 'VM "web": last good point 35 h ago')
    assert {check.state for check in (head, first, second)} == {"warning"}
    assert head.todo == "see why: cbtfleet runs; then cbtfleet backup --policy nightly"
    assert overdue({"web": None}, began=False)[0].todo.startswith(
        "that run never began: start cbtfleet sched"
    )


def test_of_many_that_are_overdue_a_few_are_named() -> None:
    late: dict[str, datetime | None] = {f"vm{n}": None for n in range(9)}
    assert len(overdue(late)) == 1 + 5
    assert len(overdue(late, few=False)) == 1 + 9


def test_without_a_schedule_nothing_is_overdue() -> None:
    policy = POLICY.model_copy(update={"schedule": None})
    chosen = [Chosen(VmChoice("web", "web", "web"), ("disk",))]
    [check] = check_overdue("nightly", policy, chosen, {}, None, began=False, all_of_them=False, now=NOW)
    assert (check.state, check.said.startswith("1 VM without any restore point")) == ("ok", True)
