"""Which blocks of a disk to read: the changes since the base, or all of it, and then why.

base usable?  recorded by the last restore point, still on the pool, same SR, CBT on at both ends, and no
              doubt about the log
    yes -> list_changed_blocks(base, new)   -- 459, 460: the pool can't tell -> full, with that reason
    no  -> full, with the reason, and with XAPI's own where it has one
"""

from __future__ import annotations

import base64
import binascii
from collections import deque
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from scheduler.planning.cbt_log import may_lack_writes, why_it_went_off
from scheduler.pool_objects.snapshots import DiskSnapshot
from workers.errors import CbtfleetError
from workers.extents import Plan
from workers.fleet import Mode
from workers.repository import DiskPoint, Point
from workers.xenapi import Session, XapiFailure, XapiRecord, is_gone, ref_or_none

_CANNOT_TELL = {
    "SR_BACKEND_FAILURE_459": "the changed-block logs are inconsistent",
    "SR_BACKEND_FAILURE_460": "the changed-block chain from the base snapshot is broken",
    "SR_BACKEND_FAILURE_457": "changed-block tracking could not be read",
    "SR_BACKEND_FAILURE_458": "changed-block tracking could not be read",
    "VDI_NO_CBT_METADATA": "the base snapshot has no changed-block metadata",
}


_BASE_IS_GONE = "the base snapshot is no longer on the pool"


class BadBitmap(CbtfleetError):
    """The pool's answer to list_changed_blocks is not a bitmap."""


@dataclass(frozen=True)
class Changes:
    """A plan, the mode it amounts to, why it is a full if it is one, and what it builds upon."""

    plan: Plan
    mode: Mode
    reason: str | None
    parent: DiskPoint | None


def changes_since(
    session: Session,
    disk: DiskSnapshot,
    last: DiskPoint | None,
    cbt_trouble: str | None,
    before: DiskPoint | None = None,
) -> Changes:
    """Asks for the changes between the last restore point's snapshot and this one.

    `cbt_trouble` is why tracking can't be trusted this time, if it can't; `before` is the disk that the VM's
    last restore point has in this drive, when that is another one. Must run before anyone connects to the
    new snapshot over NBD: XAPI refuses it then. Raises BitmapError or BadBitmap for an answer that doesn't
    fit the disk, XapiError for a failure that a full backup would not heal.
    """
    if last is None:
        first = cbt_trouble or "the first backup of this disk in this repository"
        return _full(disk, first if before is None else _replaced(disk, before))
    base = _base(session, last)
    if base is None:
        return _full(disk, cbt_trouble or _BASE_IS_GONE)
    if cbt_trouble is not None:
        return _full(disk, cbt_trouble, why_it_went_off(session, disk.live_uuid, base.record))
    if base.sr_uuid != disk.sr_uuid:
        return _full(disk, "the disk has moved to another storage repository since the last backup")
    if not base.record["cbt_enabled"] or not disk.cbt_enabled:
        why = why_it_went_off(session, disk.live_uuid, base.record)
        return _full(disk, "changed-block tracking was off at one of the two snapshots", why)
    if disk.virtual_size < last.virtual_size:
        return _full(disk, "the disk is smaller than at the last backup")
    doubt = may_lack_writes(session, disk, base.record)
    if doubt is not None:
        return _full(disk, doubt)
    try:
        answer = session.call_async("VDI.list_changed_blocks", base.ref, disk.ref)
    except XapiFailure as failure:
        if is_gone(failure) and ref_or_none(session, "VDI", last.snapshot) is None:
            return _full(disk, _BASE_IS_GONE)  # another run has committed meanwhile, and cleaned up
        if failure.code not in _CANNOT_TELL:
            raise
        why = why_it_went_off(session, disk.live_uuid, base.record)
        return _full(disk, f"{_CANNOT_TELL[failure.code]} ({failure.code})", why)
    try:
        bitmap = base64.b64decode(answer, validate=True)
    except binascii.Error as error:
        raise BadBitmap("the pool's changed-block bitmap is not base64; nothing was read from it") from error
    return Changes(Plan.from_bitmap(bitmap, disk.virtual_size), "incremental", None, last)


def disk_before(points: Iterable[Point], disk: DiskSnapshot, present: Collection[str]) -> DiskPoint | None:
    """The disk that the newest of a VM's points has in this disk's drive, when it is another one and not one
    of those `present` (uuids): it was moved to other storage, reverted, or replaced. `points` ascend."""
    newest = next(iter(deque(points, maxlen=1)), None)
    for each in newest.disks if newest is not None else ():
        if each.userdevice == disk.userdevice and each.vdi not in present:
            return each
    return None


@dataclass(frozen=True)
class _Base:
    ref: str
    record: XapiRecord
    sr_uuid: str


def _base(session: Session, last: DiskPoint) -> _Base | None:
    try:
        ref = session.call("VDI.get_by_uuid", last.snapshot)
        record = session.call("VDI.get_record", ref)
        return _Base(ref, record, session.call("SR.get_record", record["SR"])["uuid"])
    except XapiFailure as failure:
        if not is_gone(failure):
            raise
        return None


def _replaced(disk: DiskSnapshot, before: DiskPoint) -> str:
    if before.sr != disk.sr_uuid:
        how = "it has moved to another storage repository"
    elif disk.virtual_size < before.virtual_size:
        how = "a smaller one replaced it"
    else:
        how = "the VM was reverted to a snapshot, or it was replaced"
    return f"the drive held another disk ({before.vdi}) at the last backup: {how}"


def _full(disk: DiskSnapshot, reason: str, why: str | None = None) -> Changes:
    return Changes(Plan.full(disk.virtual_size), "full", f"{reason}: {why}" if why else reason, None)
