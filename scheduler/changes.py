"""Which blocks of a disk to read: the changes since the base, or all of it, and then why.

base usable?  recorded by the last restore point, still on the pool, same SR, CBT on at both ends
    yes -> list_changed_blocks(base, new)   -- 459, 460: the pool can't tell -> full, with that reason
    no  -> full, with the reason
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass

from scheduler.snapshots import DiskSnapshot
from workers.errors import CbtfleetError
from workers.extents import Plan
from workers.repository import DiskPoint
from workers.xenapi import Session, XapiFailure

_CANNOT_TELL = {
    "SR_BACKEND_FAILURE_459": "the changed-block logs are inconsistent",
    "SR_BACKEND_FAILURE_460": "the changed-block chain from the base snapshot is broken",
    "SR_BACKEND_FAILURE_457": "changed-block tracking could not be read",
    "SR_BACKEND_FAILURE_458": "changed-block tracking could not be read",
    "VDI_NO_CBT_METADATA": "the base snapshot has no changed-block metadata",
}
_GONE = ("UUID_INVALID", "HANDLE_INVALID")


class BadBitmap(CbtfleetError):
    """The pool's answer to list_changed_blocks is not a bitmap."""


@dataclass(frozen=True)
class Changes:
    """A plan, the mode it amounts to, why it is a full if it is one, and what it builds upon."""

    plan: Plan
    mode: str
    reason: str | None
    parent: DiskPoint | None


def changes_since(
    session: Session, disk: DiskSnapshot, last: DiskPoint | None, cbt_trouble: str | None
) -> Changes:
    """Asks for the changes between the last restore point's snapshot and this one.

    `cbt_trouble` is why tracking can't be trusted this time, if it can't. Must run before anyone connects to
    the new snapshot over NBD: XAPI refuses it then. Raises BitmapError or BadBitmap for an answer that
    doesn't fit the disk, XapiError for a failure that a full backup would not heal.
    """
    if cbt_trouble is not None:
        return _full(disk, cbt_trouble)
    if last is None:
        return _full(disk, "the first backup of this disk in this repository")
    try:
        base_ref = session.call("VDI.get_by_uuid", last.snapshot)
        base = session.call("VDI.get_record", base_ref)
        base_sr = session.call("SR.get_record", base["SR"])["uuid"]
    except XapiFailure as failure:
        if failure.code not in _GONE:
            raise
        return _full(disk, "the base snapshot is no longer on the pool")
    if base_sr != disk.sr_uuid:
        return _full(disk, "the disk has moved to another storage repository since the last backup")
    if not base["cbt_enabled"] or not disk.cbt_enabled:
        return _full(disk, "changed-block tracking was off at one of the two snapshots")
    if disk.virtual_size < last.virtual_size:
        return _full(disk, "the disk is smaller than at the last backup")
    try:
        answer = session.call_async("VDI.list_changed_blocks", base_ref, disk.ref)
    except XapiFailure as failure:
        if failure.code in _CANNOT_TELL:
            return _full(disk, f"{_CANNOT_TELL[failure.code]} ({failure.code})")
        raise
    try:
        bitmap = base64.b64decode(answer, validate=True)
    except binascii.Error as error:
        raise BadBitmap("the pool's changed-block bitmap is not base64; nothing was read from it") from error
    return Changes(Plan.from_bitmap(bitmap, disk.virtual_size), "incremental", None, last)


def _full(disk: DiskSnapshot, reason: str) -> Changes:
    return Changes(Plan.full(disk.virtual_size), "full", reason, None)
