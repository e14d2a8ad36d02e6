"""Between two nights, one thing to each disk of a pool: and what the doctor and the run say of it then."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from infra.simulator import DiskSpec, PoolSpec, Timing, VmSpec
from scheduler.planning import full_reason
from scheduler.planning.full_reason import CANNOT_TELL, CANNOT_TRACK, Reason
from tests.unit.scheduler import spoilt_tracking as spoilt
from tests.unit.scheduler.conftest import Site
from tests.unit.scheduler.spoilt_tracking import MiB, Spoil

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
    else the sentence says. `reason` and `expected` are what the run and the doctor say, None: incremental."""

    vm: str
    spoil: Spoil
    reason: Reason | None
    row: str = ""
    also: str = ""
    disk: DiskSpec = TRACKED
    host: int = 0
    unforeseen: bool = False
    """Only the run knows, and `expected` is what the doctor expects instead."""
    expected: Reason | None = None
    is_new: bool = False


def unforeseen(
    vm: str,
    spoil: Spoil,
    reason: Reason,
    row: str = "",
    also: str = "",
    expected: Reason | None = None,
) -> Case:
    return Case(vm, spoil, reason, row, also, unforeseen=True, expected=expected)


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
        unforeseen(
            f"switching on fails: {code}",
            spoilt.switching_on_fails(code),
            CANNOT_TRACK[code],
            CANNOT,
            expected=full_reason.SWITCHED_ON,
        )
        for code in ("SR_BACKEND_FAILURE_457", "VDI_ON_BOOT_MODE_INCOMPATIBLE_WITH_OPERATION")
    ),
    *(
        unforeseen(f"listing fails: {code}", spoilt.listing_changes_fails(code), reason, GONE)
        for code, reason in CANNOT_TELL.items()
    ),
    unforeseen(
        "middle gone",
        spoilt.a_middle_snapshot_goes_without_its_bits,
        CANNOT_TELL["SR_BACKEND_FAILURE_460"],
        "a snapshot in the middle of the chain was deleted",
    ),
    unforeseen(
        "lost once",
        spoilt.tracking_is_lost_at(1),
        CANNOT_TELL["SR_BACKEND_FAILURE_460"],
        "the storage could not begin a new log at our snapshot",
        "VDI_CBT_SNAPSHOT_FAILED",
    ),
    unforeseen(
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
AROUND_THE_SNAPSHOT = unforeseen("around", spoilt.nothing, full_reason.UNTRACKED, OFF_AT_SNAPSHOT)


@dataclass(frozen=True)
class Pool:
    cases: tuple[Case, ...]
    spec: dict[str, Any] = field(default_factory=dict)
    unknown: tuple[str, ...] = ()
    """Calls that it does not know."""

    def made_by(self, make_site: Callable[[PoolSpec], Site]) -> Site:
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
