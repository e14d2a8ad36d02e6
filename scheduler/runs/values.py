"""What is known of a run, its VMs and its result: the values that are kept in the ledger and in the bucket.

ledger   RunFacts, VmFacts, RunResult      (of a disk: workers.fleet.DiskFacts)
bucket   OpenRun     runs/<run>/open       while the run is at work
         PlannedVm   runs/<run>/vms/<vm>   while the run is at work
         RunResult   runs/<run>/result     for good
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from scheduler.policies.requests import RunRequest
from workers.fleet import DiskFacts, Mode
from workers.records import Record
from workers.repository import VmMetadata

INSECURE = "read without TLS, over a network of the purpose insecure_nbd: whoever sits on it sees the disk"

RunStatus = Literal["succeeded", "partial", "failed", "cancelled", "skipped"]


@dataclass(frozen=True)
class ResultRow:
    """One disk of a run's result; or a drive that was left out, or a VM that failed as a whole (no `vdi`).

    Byte counts are of this run. `seconds` count from the disk's plan, so waiting is included. `mode` is None
    of what was not read.
    """

    vm: str
    vm_uuid: str
    vdi: str | None
    name: str | None = None
    mode: Mode | None = None
    reason: str | None = None
    changed_bytes: int = 0
    read_bytes: int = 0
    stored_bytes: int = 0
    seconds: float = 0.0
    bytes_per_second: int | None = None
    point: str | None = None
    error: str | None = None
    warnings: tuple[str, ...] = ()

    @property
    def is_skipped(self) -> bool:
        """Neither done nor failed: left out, for its reason."""
        return self.mode is None and self.error is None


@dataclass(frozen=True)
class RunResult(Record):
    """How a run ended. Times are ISO 8601 in UTC; `slot` is its policy's, None when a person began it.

    `pool` is None when nothing could be read of what the run was to do.
    """

    run: str
    status: RunStatus
    policy: str | None
    pool: str | None
    slot: str | None
    started: str
    ended: str
    error: str | None = None
    warnings: tuple[str, ...] = ()
    disks: tuple[ResultRow, ...] = ()


@dataclass(frozen=True)
class RunFacts(Record):
    """A run in the ledger. `result` is kept for the case that the repository does not take it.

    `signature`: of what was asked for, in hexadecimal digits; "" when who asked has no metadata key.
    """

    request: RunRequest
    started: str
    error: str | None = None
    result: RunResult | None = None
    signature: str = ""

    def asked(self, run: str) -> bytes:
        """What is signed. A policy keeps so many points of its runs: not everybody may ask for one."""
        return b"run\0" + run.encode() + b"\0" + RunFacts(self.request, self.started).write()


@dataclass(frozen=True)
class OpenRun(Record):
    """A run that is at work, in the repository. `vms` are the names of the chosen VMs by uuid."""

    request: RunRequest
    started: str
    vms: Mapping[str, str]


@dataclass(frozen=True)
class FailedDisk:
    """A disk that could not be planned."""

    vdi: str
    name: str
    error: str


@dataclass(frozen=True)
class SkippedDrive:
    """A drive that is left out. `vdi` is None when there is no disk in it; `elsewhere`: the run backs the
    disk up with another VM."""

    vdi: str | None
    name: str
    reason: str
    elsewhere: bool = False


@dataclass(frozen=True)
class VmFacts(Record):
    """One VM of a run, as far as it is done.

    `snapshot` is the uuid of the VM snapshot and `time` the restore point's; both None before it is taken.
    `previous` is the run that made the VM's newest restore point when this one was planned.
    `committed`: its restore point was written before Redis forgot the run. `hooks_begun`: a scheduler is, or
    died, between the operator's two hooks. `rows` are those of disks that were planned.
    """

    name: str
    snapshot: str | None = None
    time: str | None = None
    previous: str | None = None
    metadata: VmMetadata | None = None
    failed: tuple[FailedDisk, ...] = ()
    skipped: tuple[SkippedDrive, ...] = ()
    warnings: tuple[str, ...] = ()
    committed: bool = False
    hooks_begun: bool = False
    rows: tuple[ResultRow, ...] = ()
    error: str | None = None


@dataclass(frozen=True)
class PlannedDisk:
    """A planned disk: what is neither in the run's request nor in its bitmap."""

    disk: str
    snapshot: str
    virtual_size: int
    hosts: tuple[str, ...]
    facts: DiskFacts


@dataclass(frozen=True)
class PlannedVm(Record):
    """How one VM of a run was planned."""

    facts: VmFacts
    disks: tuple[PlannedDisk, ...] = field(default=())


def planned_row(vm_uuid: str, vdi: str, facts: DiskFacts) -> ResultRow:
    """The row of a disk that was planned, and of which nothing is read yet."""
    return ResultRow(
        vm=facts.vm_name,
        vm_uuid=vm_uuid,
        vdi=vdi,
        name=facts.name,
        mode=facts.mode,
        reason=facts.reason,
        changed_bytes=facts.changed_bytes,
        warnings=(INSECURE,) if facts.insecure else (),
    )


def unplanned_rows(vm_uuid: str, vm: VmFacts) -> list[ResultRow]:
    """What never got a plan: disks that failed, drives that were skipped, and the VM itself if one of its
    steps failed."""
    rows = [ResultRow(vm.name, vm_uuid, disk.vdi, disk.name, error=disk.error) for disk in vm.failed]
    rows += [ResultRow(vm.name, vm_uuid, drive.vdi, drive.name, reason=drive.reason) for drive in vm.skipped]
    if vm.error is not None:
        rows.append(ResultRow(vm.name, vm_uuid, None, error=vm.error))
    return rows
