"""What the doctor forecasts is what the run does: for every reason to read a disk in full, with its sentence.

One VM with one disk for each case, in as few pools as there can be. What only the run itself finds out is
named in ONLY_THE_RUN_KNOWS, and is forecast as if it did not come.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from infra.simulator import DiskSpec, PoolSpec, Timing, VmSpec
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
from tests.unit.scheduler.spoilt_tracking import MiB, Spoil, call

MakeSite = Callable[[PoolSpec], Site]
PAGE = (Path(__file__).parents[3] / "docs" / "xenserver.md").read_text(encoding="utf-8")
TRACKED = DiskSpec(MiB, cbt=True)

ONLY_THE_RUN_KNOWS = {
    *CANNOT_TELL.values(),
    CANNOT_TRACK["SR_BACKEND_FAILURE_457"],
    CANNOT_TRACK["VDI_ON_BOOT_MODE_INCOMPATIBLE_WITH_OPERATION"],
    full_reason.LOST_MEANWHILE,
    full_reason.UNTRACKED,
}
"""The pool says so when it is asked for the changes, or to switch tracking on; or it happens at the snapshot.
A disk that is reset at every boot is skipped, unless somebody sets that right before."""

ROWS_WITHOUT_A_CASE = {"a host dies in the middle of a run": "what it leaves is the rows of a host that died"}


@dataclass(frozen=True)
class Case:
    """`row` is how the row of docs/xenserver.md begins that it is about, "" where there is none; `also` what
    else the sentence says. `reason` and `foretold` are what the run and the doctor say, None: incremental."""

    vm: str
    spoil: Spoil
    reason: Reason | None
    row: str = ""
    also: str = ""
    disk: DiskSpec = TRACKED
    host: int = 0
    sudden: bool = False
    """Only the run knows, and `foretold` is what the doctor expects instead."""
    foretold: Reason | None = None
    is_new: bool = False


def sudden(
    vm: str,
    spoil: Spoil,
    reason: Reason,
    row: str = "",
    also: str = "",
    foretold: Reason | None = None,
) -> Case:
    return Case(vm, spoil, reason, row, also, sudden=True, foretold=foretold)


GONE = "the base snapshot is gone; `SR_BACKEND_FAILURE_459`"
CANNOT = "`LICENCE_RESTRICTION`, `VDI_INCOMPATIBLE_TYPE`"
OFF_AT_SNAPSHOT = "tracking goes off while the snapshot is taken"
INCONSISTENT = "VDI_CBT_METADATA_INCONSISTENT"
DIED_OFF = "a host died under a VM that stays off"
NO_MESSAGES = "a server without `message.get`"
RESIZE = "a resize failed for the log"
MOVED = "a disk was moved to other storage"
ANOTHER = "a disk is smaller than it was, or another one"

CASES = (
    Case("plain", spoilt.nothing, None),
    Case("on local storage", spoilt.nothing, None, disk=DiskSpec(MiB, cbt=True, sr="local")),
    Case("grown", spoilt.it_grows, None, "a disk has grown"),
    Case("shut down", spoilt.it_is_shut_down, None, DIED_OFF),
    Case("new", spoilt.it_is_new, full_reason.FIRST, is_new=True),
    Case("off", spoilt.tracking_goes_off, full_reason.SWITCHED_ON),
    Case(
        "resized",
        spoilt.the_log_does_not_grow_with_the_disk,
        full_reason.SWITCHED_ON,
        RESIZE,
        "VDI_CBT_RESIZE",
    ),
    Case(
        "host died, runs again",
        spoilt.its_host_dies_and_it_starts_elsewhere,
        full_reason.SWITCHED_ON,
        "a host died under a VM that runs again",
        INCONSISTENT,
        host=1,
    ),
    Case("host died, stays off", spoilt.its_host_dies, full_reason.MAY_LACK_WRITES, DIED_OFF, host=2),
    Case("damaged", spoilt.its_point_is_damaged, full_reason.UNREADABLE, also="points/"),
    Case("base gone", spoilt.its_base_goes, full_reason.BASE_GONE, GONE),
    Case("base elsewhere", spoilt.its_base_is_on_other_storage, full_reason.MOVED, MOVED),
    Case("base untracked", spoilt.its_base_was_not_tracked, full_reason.BASE_UNTRACKED),
    Case("was larger", spoilt.it_was_larger, full_reason.SMALLER, ANOTHER),
    Case("moved", spoilt.it_moves_to_other_storage, full_reason.REPLACED_ELSEWHERE, MOVED),
    Case("reverted", spoilt.it_is_reverted, full_reason.REPLACED, "`VM.revert`, to our snapshot too"),
    Case("a smaller one", spoilt.a_smaller_disk_takes_its_drive, full_reason.REPLACED_SMALLER, ANOTHER),
    Case("raw", spoilt.nothing, CANNOT_TRACK["SR_BACKEND_FAILURE_66"], CANNOT, disk=DiskSpec(MiB, raw=True)),
    Case(
        "odd type",
        spoilt.nothing,
        CANNOT_TRACK["VDI_INCOMPATIBLE_TYPE"],
        CANNOT,
        disk=DiskSpec(MiB, type="ephemeral"),
    ),
    *(
        sudden(
            f"switching on fails: {code}",
            spoilt.switching_on_fails(code),
            CANNOT_TRACK[code],
            CANNOT,
            foretold=full_reason.SWITCHED_ON,
        )
        for code in ("SR_BACKEND_FAILURE_457", "VDI_ON_BOOT_MODE_INCOMPATIBLE_WITH_OPERATION")
    ),
    *(
        sudden(f"listing fails: {code}", spoilt.listing_changes_fails(code), reason, GONE)
        for code, reason in CANNOT_TELL.items()
    ),
    sudden(
        "middle gone",
        spoilt.a_middle_snapshot_goes_without_its_bits,
        CANNOT_TELL["SR_BACKEND_FAILURE_460"],
        "a snapshot in the middle of the chain was deleted",
    ),
    sudden(
        "lost once",
        spoilt.tracking_is_lost_at(1),
        CANNOT_TELL["SR_BACKEND_FAILURE_460"],
        "the storage could not begin a new log at our snapshot",
        "VDI_CBT_SNAPSHOT_FAILED",
    ),
    sudden(
        "lost twice",
        spoilt.tracking_is_lost_at(2),
        full_reason.LOST_MEANWHILE,
        OFF_AT_SNAPSHOT,
        "VDI_CBT_SNAPSHOT_FAILED",
    ),
)
WITHOUT_MESSAGES = (
    Case("resized", spoilt.the_log_does_not_grow_with_the_disk, full_reason.SWITCHED_ON, NO_MESSAGES),
    Case("shut down", spoilt.it_is_shut_down, None, NO_MESSAGES),
)
UNLICENSED = (
    Case("unlicensed", spoilt.nothing, CANNOT_TRACK["LICENCE_RESTRICTION"], CANNOT, disk=DiskSpec(MiB)),
)
UNTRACKABLE_STORAGE = (
    Case(
        "no tracking", spoilt.nothing, CANNOT_TRACK["SR_OPERATION_NOT_SUPPORTED"], CANNOT, disk=DiskSpec(MiB)
    ),
)
AROUND_THE_SNAPSHOT = sudden("around", spoilt.nothing, full_reason.UNTRACKED, OFF_AT_SNAPSHOT)


@dataclass(frozen=True)
class Pool:
    cases: tuple[Case, ...]
    spec: dict[str, Any] = field(default_factory=dict)
    unknown: tuple[str, ...] = ()
    """Calls that it does not know."""

    def made_by(self, make_site: MakeSite) -> Site:
        machines = tuple(
            VmSpec(case.vm, (case.disk,), host=case.host) for case in self.cases if not case.is_new
        )
        timing = Timing(login_failure_delay=0.1, data_destroy_wait=0.2, slot_release_delay=0.01)
        hosts = 1 + max(case.host for case in self.cases)
        spec = {"local_srs": True, "size_rounding": 1, **self.spec}
        site = make_site(PoolSpec(hosts=hosts, vms=machines, second_network=False, timing=timing, **spec))
        for method in self.unknown:
            site.pool.add_fault(xapi=method, failure=["MESSAGE_METHOD_UNKNOWN", method], count=-1)
        return site


POOLS = {
    "a pool": Pool(CASES),
    "without messages": Pool(WITHOUT_MESSAGES, unknown=("message.get", "message.get_since")),
    "without a licence": Pool(UNLICENSED, {"licensed_for_cbt": False}),
    "storage without tracking": Pool(UNTRACKABLE_STORAGE, {"sr_has_cbt": False}),
}
ALL = [case for pool in POOLS.values() for case in pool.cases] + [AROUND_THE_SNAPSHOT]


def foretold(site: Site, without_tracking: Untracked = "full") -> list[DiskTonight]:
    """As the doctor comes to it."""
    facts = PoolFacts("lab", site.settings.pool("lab"))
    facts.gather()
    assert facts.refused is None
    policy = Policy.model_validate({"pool": "lab", "include": {"names": ["*"]}})
    kept = read_repository(site.settings.repository)
    with closing_store(kept):
        return forecast(facts, without_tracking, kept.last_disks(choose("nightly", policy, facts)))


def told(disks: Iterable[DiskTonight]) -> dict[str, tuple[str, str | None]]:
    """By VM: the mode, and the sentence as a run's result would have it."""
    assert {disk.outlook.unknown for disk in disks} == {""}
    return {
        disk.vm_name: (
            disk.outlook.mode,
            str(FullReason(disk.outlook.why, disk.outlook.detail)) if disk.outlook.why else None,
        )
        for disk in disks
    }


def done(result: RunResult) -> dict[str, tuple[str, str | None]]:
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
def test_the_run_does_what_the_doctor_foretold_and_says_it_in_the_same_words(
    make_site: MakeSite, pool: Pool
) -> None:
    site = pool.made_by(make_site)
    first = told(foretold(site))
    assert done(site.night()) == first
    for case in pool.cases:
        case.spoil(site, case.vm)
    before = told(foretold(site))
    after = done(site.night())
    assert set(before) == set(after) == {case.vm for case in pool.cases}
    known = [case.vm for case in pool.cases if not case.sudden]
    assert {vm: before[vm] for vm in known} == {vm: after[vm] for vm in known}
    for case in pool.cases:
        assert_is(case, after[case.vm], case.reason, case.also)
        if case.sudden:
            assert_is(case, before[case.vm], case.foretold, "")


def test_tracking_that_is_off_at_the_snapshot_alone_is_a_surprise(make_site: MakeSite) -> None:
    """A scheduler died after the snapshot, and somebody switched tracking off before it and on after it."""
    case = AROUND_THE_SNAPSHOT
    site = Pool((case,)).made_by(make_site)
    site.night()
    case.spoil(site, case.vm)
    before = told(foretold(site))
    run = site.submit()
    site.work(run, until=lambda step: step == "plan-vm")
    site.pool.disable_cbt(spoilt.disk_of(site, case.vm))
    call(site, "VM.snapshot", spoilt.vm_ref(site, case.vm), snapshot_name(run), [])
    call(site, "VDI.enable_cbt", spoilt.disk_ref(site, case.vm))
    plan_vm(site.context, run, site.pool.vms()[0]["uuid"])
    result = site.work(run)
    assert result is not None
    assert_is(case, before[case.vm], case.foretold, "")
    assert_is(case, done(result)[case.vm], case.reason, "")


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
    expected = told(foretold(site, without_tracking))
    assert expected["raw"][0] == mode
    request = RunRequest("lab", include=Selector(names=("*",)), without_tracking=without_tracking)
    result = site.work(submit_run(site.ledger, request))
    assert result is not None
    [row] = [row for row in result.disks if row.vm == "raw" and row.vdi]
    assert (row.mode, getattr(row, in_row)) == (None, before.format(expected["raw"][1]))


def test_every_reason_has_a_case() -> None:
    reasons = {each for each in vars(full_reason).values() if isinstance(each, Reason)}
    reasons |= {*CANNOT_TRACK.values(), *CANNOT_TELL.values()}
    assert {case.reason for case in ALL} - {None} == reasons


def test_what_is_not_foretold_is_what_only_the_run_knows() -> None:
    assert {case.reason for case in ALL if case.sudden} == ONLY_THE_RUN_KNOWS
    assert not {case.reason for case in ALL if not case.sudden} & ONLY_THE_RUN_KNOWS


def test_every_row_about_tracking_that_broke_has_a_case() -> None:
    """Of docs/xenserver.md; and every row that a case names is there."""
    section = PAGE.partition("## Tracking that broke")[2].partition("\n## ")[0]
    rows = [row for row in re.findall(r"^\| (.*?) \|", section, re.MULTILINE) if row != "fault or code"]
    assert rows
    named = {case.row for case in ALL if case.row} | set(ROWS_WITHOUT_A_CASE)
    assert [row for row in rows if not row.startswith(tuple(named))] == []
    assert [row for row in named if f"\n| {row}" not in PAGE] == []
