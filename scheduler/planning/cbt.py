"""Changed-block tracking of a live disk: switched on, awaited, looked at."""

from __future__ import annotations

from scheduler.planning.full_reason import CANNOT_TRACK, SWITCHED_ON, Reason
from workers.errors import CbtfleetError
from workers.xenapi import Session, XapiFailure, XapiRecord


class TrackingStaysOff(CbtfleetError):
    """The pool says that it switched tracking on, and it is off."""


def switch_on(session: Session, ref: str, record: XapiRecord) -> Reason | None:
    """Why this backup cannot build on the last one: tracking is on only now, or cannot be. None: it was on.

    `ref` and `record` are the live VDI's. Raises TrackingStaysOff, and XapiError for anything else, e.g.
    storage that is not plugged in.
    """
    if record["cbt_enabled"]:
        return None
    try:
        session.call_async("VDI.enable_cbt", ref)
    except XapiFailure as failure:
        if failure.code in CANNOT_TRACK:
            return CANNOT_TRACK[failure.code]
        raise
    if not is_on(session, ref):
        raise TrackingStaysOff("the pool says that it switched changed-block tracking on, but it is off")
    return SWITCHED_ON


def is_on(session: Session, ref: str) -> bool:
    """Asked again after the snapshot: when the new log cannot be made, the snapshot succeeds and the live
    disk is no longer tracked (message VDI_CBT_SNAPSHOT_FAILED)."""
    return bool(session.call("VDI.get_record", ref)["cbt_enabled"])
