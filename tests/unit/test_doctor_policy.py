"""The doctor and a policy, by hand-made records: which VMs and drives does it mean, and who is overdue?"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from scheduler.checks.check import Check
from scheduler.checks.drives import Chosen, choose
from scheduler.checks.policy import check_dates, check_overdue, check_schedule, check_vms, last_due
from scheduler.checks.tonight import check_skipped
from scheduler.planning.disk_choice import Drive
from scheduler.planning.selection import VmChoice
from scheduler.policies.policy import Selector
from scheduler.runs.triggers import slot_run
from tests.unit.one_disk import POLICY, facts
from workers.repository import ListedPoint, NewestDisks, Point

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
LAST_NIGHT = datetime(2026, 11, 22, 1, tzinfo=UTC)
BEFORE_THAT = LAST_NIGHT - timedelta(days=1)


def test_the_policys_vms_and_their_disks() -> None:
    found = choose("nightly", POLICY, facts({}, base={}))
    assert [(each.vm.name, each.disks) for each in found] == [("web", ["live"])]
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
    assert chosen[0].disks == []
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
    assert [each.disks for each in chosen] == [["live"], []]
    [check] = check_skipped("nightly", chosen, all_of_them=False)
    assert (check.state, "backs it up with another VM" in check.said) == ("ok", True)


def test_the_next_run() -> None:
    [check] = check_schedule("nightly", POLICY, NOW)
    assert check.said == "next run 2026-11-23 01:00 UTC, stopped at 06:00"
    [check] = check_schedule("nightly", POLICY.model_copy(update={"schedule": None}), NOW)
    assert check.said.startswith("no schedule")


def test_points_that_are_dated_in_the_future() -> None:
    def newest(ahead: timedelta) -> NewestDisks:
        time = f"{NOW + ahead:%Y-%m-%dT%H:%M:%SZ}"
        point = Point("id", "web", "vm-1", time, RUNS[0], "lab", ())
        return NewestDisks({}, (), point)

    web = Chosen(VmChoice("web", "web", "web"), ())
    assert check_dates("nightly", [(web, newest(timedelta(minutes=4))), (web, NewestDisks({}))], NOW) == []
    [check] = check_dates("nightly", [(web, newest(timedelta(days=30)))], NOW)
    assert (check.state, check.said) == (
        "warning",
        '1 newest restore point dated in the future: VM "web" of 2026-12-22T12:00:00Z',
    )


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
    chosen = [Chosen(VmChoice(name, name, name), (Drive({}, "disk"),)) for name in newest]
    points: dict[str, Sequence[ListedPoint]] = {
        name: [ListedPoint(name, f"{time:%Y%m%dT%H%M%SZ}-0a1b2c", "key")]
        for name, time in newest.items()
        if time is not None
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
    chosen = [Chosen(VmChoice("web", "web", "web"), (Drive({}, "disk"),))]
    [check] = check_overdue("nightly", policy, chosen, {}, None, began=False, all_of_them=False, now=NOW)
    assert (check.state, check.said.startswith("1 VM without any restore point")) == ("ok", True)
