"""What the doctor forecasts is what the run does: for every reason to read a disk in full, with its sentence.

One VM with one disk for each case, in as few pools as there can be. What only the run itself finds out is
named in ONLY_THE_RUN_KNOWS, and is forecast as if it did not come.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from infra.simulator import PoolSpec
from scheduler.checks.drives import choose
from scheduler.checks.pool_facts import PoolFacts
from scheduler.checks.repository_facts import closing_store, read_repository
from scheduler.checks.tonight import DiskTonight, forecast
from scheduler.planning import full_reason
from scheduler.planning.full_reason import CANNOT_TELL, CANNOT_TRACK, FullReason, Reason
from scheduler.planning.steps import plan_vm
from scheduler.policies.policy import Policy, Selector, Untracked
from scheduler.policies.requests import RunRequest
from scheduler.pool_objects.snapshots import snapshot_name
from scheduler.runs.submit import submit_run
from scheduler.runs.values import RunResult
from tests.failure_report import run_in_short
from tests.unit.scheduler import spoilt_tracking as spoilt
from tests.unit.scheduler.conftest import Site
from tests.unit.scheduler.forecast_cases import (
    ALL,
    AROUND_THE_SNAPSHOT,
    CASES,
    ONLY_THE_RUN_KNOWS,
    POOLS,
    ROWS_WITHOUT_A_CASE,
    Case,
    Pool,
)
from tests.unit.scheduler.spoilt_tracking import call

MakeSite = Callable[[PoolSpec], Site]
PAGE = (Path(__file__).parents[3] / "docs" / "xenserver.md").read_text(encoding="utf-8")


def forecast_of(site: Site, without_tracking: Untracked = "full") -> list[DiskTonight]:
    """As the doctor makes it."""
    facts = PoolFacts("lab", site.settings.pool("lab"))
    facts.gather()
    assert facts.refused is None
    policy = Policy.model_validate({"pool": "lab", "include": {"names": ["*"]}})
    kept = read_repository(site.settings.repository)
    with closing_store(kept):
        return forecast(facts, without_tracking, kept.last_disks(choose("nightly", policy, facts)))


def sentences(disks: Iterable[DiskTonight]) -> dict[str, tuple[str, str | None]]:
    """By VM: the mode, and the sentence as a run's result would have it."""
    assert {disk.outlook.unknown for disk in disks} == {""}
    return {
        disk.vm_name: (
            disk.outlook.mode,
            str(FullReason(disk.outlook.why, disk.outlook.detail)) if disk.outlook.why else None,
        )
        for disk in disks
    }


def rows(result: RunResult) -> dict[str, tuple[str, str | None]]:
    assert result.status == "succeeded", run_in_short(result)
    return {str(row.vm): (str(row.mode), row.reason) for row in result.disks}


def assert_is(case: Case, row: tuple[str, str | None], reason: Reason | None, also: str) -> None:
    mode, said = row
    if reason is None:
        assert row == ("incremental", None), case.vm
    else:
        assert (mode, reason.said in str(said), reason.code in str(said)) == ("full", True, True), (
            case.vm,
            said,
        )
        assert also in str(said), case.vm


@pytest.mark.parametrize("pool", POOLS.values(), ids=POOLS)
def test_the_run_does_what_the_doctor_forecast_and_says_it_in_the_same_words(
    make_site: MakeSite, pool: Pool
) -> None:
    site = pool.made_by(make_site)
    first = sentences(forecast_of(site))
    assert rows(site.night()) == first
    for case in pool.cases:
        case.spoil(site, case.vm)
    before = sentences(forecast_of(site))
    after = rows(site.night())
    assert set(before) == set(after) == {case.vm for case in pool.cases}
    known = [case.vm for case in pool.cases if not case.unforeseen]
    assert {vm: before[vm] for vm in known} == {vm: after[vm] for vm in known}
    for case in pool.cases:
        assert_is(case, after[case.vm], case.reason, case.also)
        if case.unforeseen:
            assert_is(case, before[case.vm], case.expected, "")


def test_tracking_that_is_off_at_the_snapshot_alone_is_not_forecast(make_site: MakeSite) -> None:
    """A scheduler died after the snapshot, and somebody switched tracking off before it and on after it."""
    case = AROUND_THE_SNAPSHOT
    site = Pool((case,)).made_by(make_site)
    site.night()
    case.spoil(site, case.vm)
    before = sentences(forecast_of(site))
    run = site.submit()
    site.work(run, until=lambda step: step == "plan-vm")
    site.pool.disable_cbt(spoilt.disk_of(site, case.vm))
    call(site, "VM.snapshot", spoilt.vm_ref(site, case.vm), snapshot_name(run), [])
    call(site, "VDI.enable_cbt", spoilt.disk_ref(site, case.vm))
    plan_vm(site.context, run, site.pool.vms()[0]["uuid"])
    result = site.work(run)
    assert result is not None
    assert_is(case, before[case.vm], case.expected, "")
    assert_is(case, rows(result)[case.vm], case.reason, "")


@pytest.mark.parametrize(
    ("without_tracking", "mode", "before", "in_row"),
    [
        ("skip", "skipped", "skipped: {}", "reason"),
        ("fail", "impossible", 'VM "raw", disk raw disk 0: {}', "error"),
    ],
)
def test_a_disk_without_tracking_is_left_out_with_the_same_words(
    make_site: MakeSite, without_tracking: Untracked, mode: str, before: str, in_row: str
) -> None:
    cases = [case for case in CASES if case.vm in ("raw", "plain")]
    site = Pool(tuple(cases)).made_by(make_site)
    forecasts = sentences(forecast_of(site, without_tracking))
    assert forecasts["raw"][0] == mode
    request = RunRequest("lab", include=Selector(names=("*",)), without_tracking=without_tracking)
    result = site.work(submit_run(site.ledger, request))
    assert result is not None
    [row] = [row for row in result.disks if row.vm == "raw" and row.vdi]
    assert (row.mode, getattr(row, in_row)) == (None, before.format(forecasts["raw"][1]))


def test_every_reason_has_a_case() -> None:
    reasons = {each for each in vars(full_reason).values() if isinstance(each, Reason)}
    reasons |= {*CANNOT_TRACK.values(), *CANNOT_TELL.values()}
    assert {case.reason for case in ALL} - {None} == reasons


def test_what_is_not_forecast_is_what_only_the_run_knows() -> None:
    assert {case.reason for case in ALL if case.unforeseen} == ONLY_THE_RUN_KNOWS
    assert not {case.reason for case in ALL if not case.unforeseen} & ONLY_THE_RUN_KNOWS


def test_every_row_about_tracking_that_broke_has_a_case() -> None:
    """Of docs/xenserver.md; and every row that a case names is there."""
    section = PAGE.partition("## Tracking that broke")[2].partition("\n## ")[0]
    rows = [row for row in re.findall(r"^\| (.*?) \|", section, re.MULTILINE) if row != "fault or code"]
    assert rows
    named = {case.row for case in ALL if case.row} | set(ROWS_WITHOUT_A_CASE)
    assert [row for row in rows if not row.startswith(tuple(named))] == []
    assert [row for row in named if f"\n| {row}" not in PAGE] == []
