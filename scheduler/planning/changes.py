"""Which blocks of a disk to read: the changes since the base, or all of it, and then why.

a reason for a full (full_reason.py)?
    no  -> list_changed_blocks(base, new)   -- 457 to 460, no metadata: the pool can't tell -> full, with that
    yes -> full, with the reason
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from scheduler.planning.cbt_log import AskedMessages, LogSinceBase
from scheduler.planning.full_reason import (
    BASE_GONE,
    CANNOT_TELL,
    Base,
    DiskState,
    FullReason,
    LastDisk,
    Reason,
    Unreadable,
    full_reason,
)
from scheduler.pool_objects.snapshots import DiskSnapshot
from workers.errors import CbtfleetError
from workers.extents import Plan
from workers.fleet import Mode
from workers.repository import DamagedObject, DiskPoint, Repository
from workers.xenapi import Session, XapiFailure, XapiRecord, is_gone, ref_or_none


class BadBitmap(CbtfleetError):
    """The pool's answer to list_changed_blocks is not a bitmap."""


@dataclass(frozen=True)
class Changes:
    """A plan, the mode it amounts to, why it is a full if it is one, and what it builds upon."""

    plan: Plan
    mode: Mode
    reason: FullReason | None
    parent: DiskPoint | None


def changes_since(
    session: Session,
    disk: DiskSnapshot,
    last: LastDisk,
    tracking: Reason | None,
    before: DiskPoint | None = None,
) -> Changes:
    """Asks for the changes between the last restore point's snapshot and this one.

    `tracking` is why tracking can't be built upon this time, if it can't; `before` is the disk that the VM's
    newest restore point has in this drive, when that is another one. Must run before anyone connects to the
    new snapshot over NBD: XAPI refuses it then. Raises BitmapError or BadBitmap for an answer that doesn't
    fit the disk, XapiError for a failure that a full backup would not heal.
    """
    base = _base(session, last.snapshot) if isinstance(last, DiskPoint) else None
    record = base.record if base is not None else {}
    log = LogSinceBase(AskedMessages(session), disk.live_uuid, disk.vm_uuid, disk.power, record)
    state = DiskState(
        sr=disk.sr_uuid,
        size=disk.virtual_size,
        tracked=disk.cbt_enabled,
        tracking=tracking,
        last=last,
        before=before,
        base=Base(base.sr_uuid, bool(record["cbt_enabled"])) if base is not None else None,
    )
    reason = full_reason(state, log)
    if reason is not None:
        return Changes(Plan.full(disk.virtual_size), "full", reason, None)
    assert base is not None, "what has no base has a reason"
    assert isinstance(last, DiskPoint)
    try:
        answer = session.call_async("VDI.list_changed_blocks", base.ref, disk.ref)
    except XapiFailure as failure:
        if is_gone(failure) and ref_or_none(session, "VDI", last.snapshot) is None:
            # another run has committed meanwhile, and cleaned up
            return Changes(Plan.full(disk.virtual_size), "full", FullReason(BASE_GONE), None)
        if failure.code not in CANNOT_TELL:
            raise
        reason = FullReason(CANNOT_TELL[failure.code], log.why_off())
        return Changes(Plan.full(disk.virtual_size), "full", reason, None)
    try:
        bitmap = base64.b64decode(answer, validate=True)
    except binascii.Error as error:
        raise BadBitmap("the pool's changed-block bitmap is not base64; nothing was read from it") from error
    return Changes(Plan.from_bitmap(bitmap, disk.virtual_size), "incremental", None, last)


def last_disk(
    repository: Repository, vm_uuid: str, disk: DiskSnapshot, present: Collection[str]
) -> tuple[LastDisk, DiskPoint | None]:
    """The disk in the newest of the VM's points that holds it; and, when none does, what `disk_before` makes
    of the newest."""
    try:
        last = repository.latest_disk(vm_uuid, disk.live_uuid)
        newest = repository.newest_point(vm_uuid) if last is None else None
    except DamagedObject as error:
        return Unreadable(str(error)), None
    return last, disk_before(newest.disks, disk.userdevice, present) if newest is not None else None


def disk_before(newest: Iterable[DiskPoint], place: str, present: Collection[str]) -> DiskPoint | None:
    """The disk that the newest of a VM's points has in a drive, when it is none of those `present` (uuids):
    it was moved to other storage, reverted, or replaced. `newest` are all disks of that point."""
    return next((each for each in newest if each.userdevice == place and each.vdi not in present), None)


@dataclass(frozen=True)
class _OnPool:
    ref: str
    record: XapiRecord
    sr_uuid: str


def _base(session: Session, snapshot: str) -> _OnPool | None:
    try:
        ref = session.call("VDI.get_by_uuid", snapshot)
        record = session.call("VDI.get_record", ref)
        return _OnPool(ref, record, session.call("SR.get_record", record["SR"])["uuid"])
    except XapiFailure as failure:
        if not is_gone(failure):
            raise
        return None
