"""Why a disk is read in full: the one decision, over what is known before the pool is asked for changes.

its last restore point is unreadable      -> that
no restore point has it                   -> another disk was in its drive, else its tracking, else the first
its base is gone                          -> its tracking, else that
its tracking was off                      -> that, and XAPI's own reason
base on other storage, without tracking   -> that
smaller than it was                       -> that
its log may lack writes                   -> that
none of these   -> None: the changes are asked for, which may still fail (CANNOT_TELL)

Planning reads the facts from the snapshot it has just made, the doctor from the pool's records: so a sentence
is true before the run and after it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

from scheduler.policies.policy import Untracked
from workers.repository import DiskPoint


@dataclass(frozen=True)
class Reason:
    """`said` is a sentence for people, `todo` what a person can do about it, "" when there is nothing."""

    said: str
    todo: str = ""
    code: str = ""
    """XAPI's own, when it is XAPI that says so."""
    untrackable: bool = False
    """It stays so until a person does what `todo` says, and the policy's `without_tracking` decides what
    becomes of the disk. Every other reason is over with the full backup that it causes."""


@dataclass(frozen=True)
class FullReason:
    """The reason, and what is known of it for this disk alone."""

    why: Reason
    detail: str = ""

    def __str__(self) -> str:
        """As it stands in the run's result."""
        said = f"{self.why.said}; {self.why.todo}" if self.why.untrackable else self.why.said
        if self.why.code:
            said += f" ({self.why.code})"
        return f"{said}: {self.detail}" if self.detail else said


FIRST = Reason("the first backup of this disk in this repository")
SWITCHED_ON = Reason("changed-block tracking is on from this backup on; it was off before")
LOST_MEANWHILE = Reason("changed-block tracking was switched off while the snapshot was taken")
UNREADABLE = Reason("the last restore point cannot be read", "cbtfleet verify says what is damaged")
BASE_GONE = Reason(
    "the base snapshot is no longer on the pool", "find out who deletes snapshots without data"
)
MOVED = Reason("the disk has moved to another storage repository since the last backup")
BASE_UNTRACKED = Reason(
    "changed-block tracking was off at the base snapshot", "see the pool's messages of that time"
)
UNTRACKED = Reason("changed-block tracking was off at the new snapshot")
SMALLER = Reason("the disk is smaller than at the last backup", "make sure that it is still the same disk")
MAY_LACK_WRITES = Reason(
    "the VM is off, and the pool does not say that it was shut down: if its host went down, the last changes"
    " are in no log"
)
_OTHER_DISK = "the drive held another disk at the last backup"
REPLACED_ELSEWHERE = Reason(f"{_OTHER_DISK}, which has moved to another storage repository")
REPLACED_SMALLER = Reason(
    f"{_OTHER_DISK}, which a smaller one has replaced", "make sure that it is the right disk"
)
REPLACED = Reason(f"{_OTHER_DISK}: the VM was reverted to a snapshot, or the disk was replaced")

CANNOT_TRACK = {
    reason.code: reason
    for reason in (
        Reason(
            "the storage cannot track changed blocks",
            "move the disk to one that can",
            "SR_OPERATION_NOT_SUPPORTED",
            untrackable=True,
        ),
        Reason(
            "a disk of this kind (raw) cannot track changed blocks",
            "copy it to a VHD disk",
            "SR_BACKEND_FAILURE_66",
            untrackable=True,
        ),
        Reason(
            "changed-block tracking could not be switched on",
            "/var/log/SMlog on the host says why",
            "SR_BACKEND_FAILURE_457",
            untrackable=True,
        ),
        Reason(
            "the pool's licence does not include changed-block tracking",
            "apply one that does",
            "LICENCE_RESTRICTION",
            untrackable=True,
        ),
        Reason(
            "only disks of type user or system can track changed blocks",
            "copy it to one",
            "VDI_INCOMPATIBLE_TYPE",
            untrackable=True,
        ),
        Reason(
            "a disk that is reset at every boot cannot track changed blocks",
            "set its on_boot to persist",
            "VDI_ON_BOOT_MODE_INCOMPATIBLE_WITH_OPERATION",
            untrackable=True,
        ),
    )
}
"""By the code with which XAPI refuses to switch tracking on."""

CANNOT_TELL = {
    reason.code: reason
    for reason in (
        Reason("the changed-block logs are inconsistent", code="SR_BACKEND_FAILURE_459"),
        Reason("the changed-block chain from the base snapshot is broken", code="SR_BACKEND_FAILURE_460"),
        Reason("changed-block tracking could not be read", code="SR_BACKEND_FAILURE_457"),
        Reason("changed-block tracking could not be read", code="SR_BACKEND_FAILURE_458"),
        Reason("the base snapshot has no changed-block metadata", code="VDI_NO_CBT_METADATA"),
    )
}
"""By the code with which XAPI fails to list the changes: only asking tells, so no forecast knows these."""


@dataclass(frozen=True)
class Base:
    """The snapshot of the last restore point, as it is on the pool. `sr` is a uuid."""

    sr: str
    tracked: bool


@dataclass(frozen=True)
class Unreadable:
    """The last restore point of the disk cannot be read; `detail` says which object it is and why."""

    detail: str


LastDisk = DiskPoint | Unreadable | None
"""A disk in the newest restore point that holds it; None: in none."""


@dataclass(frozen=True)
class DiskState:
    """What is known of one disk before its changes are asked for. `sr` is a uuid, `size` bytes."""

    sr: str
    size: int
    tracked: bool
    """At the new snapshot."""
    tracking: Reason | None
    """Why tracking cannot be built upon this time: just switched on, lost at the snapshot, or one of
    CANNOT_TRACK; None: it was on."""
    last: LastDisk
    before: DiskPoint | None
    """The disk that the VM's newest restore point has in this drive, when that is another one."""
    base: Base | None
    """None also where there is no `last` to have one."""


class ChangeLog(Protocol):
    """What became of a disk's changed-block log since its base. Asked only where the answer matters: each
    may cost a question to the pool."""

    def why_off(self) -> str:
        """XAPI's own reason for switching tracking off, "" when it gives none."""

    def may_lack_writes(self) -> bool:
        """Whether the log since the base may lack the last writes."""


def full_reason(disk: DiskState, log: ChangeLog) -> FullReason | None:
    """Why the disk is read in full; None: the changes since its base are to be asked for. Raises only what
    `log` raises."""
    last = disk.last
    if isinstance(last, Unreadable):
        return FullReason(UNREADABLE, last.detail)
    if last is None:
        if disk.before is not None:
            return FullReason(_how_replaced(disk, disk.before), f"it was {disk.before.vdi}")
        return FullReason(disk.tracking or FIRST)
    if disk.base is None:
        return FullReason(disk.tracking or BASE_GONE)
    if disk.tracking is not None:
        return FullReason(disk.tracking, log.why_off())
    if disk.base.sr != disk.sr:
        return FullReason(MOVED)
    if not disk.base.tracked:
        return FullReason(BASE_UNTRACKED, log.why_off())
    if not disk.tracked:
        return FullReason(UNTRACKED, log.why_off())
    if disk.size < last.virtual_size:
        return FullReason(SMALLER)
    return FullReason(MAY_LACK_WRITES) if log.may_lack_writes() else None


def left_out(tracking: Reason | None, without_tracking: Untracked) -> Literal["skip", "fail"] | None:
    """What becomes of a disk that cannot be tracked, when the policy wants no full of it; None: it is backed
    up."""
    if tracking is None or not tracking.untrackable or without_tracking == "full":
        return None
    return without_tracking


def _how_replaced(disk: DiskState, before: DiskPoint) -> Reason:
    if before.sr != disk.sr:
        return REPLACED_ELSEWHERE
    return REPLACED_SMALLER if disk.size < before.virtual_size else REPLACED
