"""Changed-block tracking of a live disk: switched on, awaited, looked at; or why it cannot be.

What is said of a disk that cannot be tracked names what would change that. What becomes of it, a full backup
or none, is the policy's `without_tracking`.
"""

from __future__ import annotations

from workers.errors import CbtfleetError
from workers.xenapi import Session, XapiFailure, XapiRecord

_CANNOT = {
    "SR_OPERATION_NOT_SUPPORTED": "the storage cannot track changed blocks; move the disk to one that can",
    "SR_BACKEND_FAILURE_66": "a disk of this kind (raw) cannot track changed blocks; copy it to a VHD disk",
    "SR_BACKEND_FAILURE_457": "changed-block tracking could not be switched on; /var/log/SMlog on the "
    "host says why",
    "LICENCE_RESTRICTION": "the pool's licence does not include changed-block tracking; apply one that does",
    "VDI_INCOMPATIBLE_TYPE": "only disks of type user or system can track changed blocks; copy it to one",
    "VDI_ON_BOOT_MODE_INCOMPATIBLE_WITH_OPERATION": "a disk that is reset at every boot cannot track changed "
    "blocks; set its on_boot to persist",
}
SWITCHED_ON = "changed-block tracking was off and has been switched on for the next backup"


class CannotTrack(CbtfleetError):
    """Not this disk, not here, not with this licence: the disk can still be read as a whole."""


class TrackingStaysOff(CbtfleetError):
    """The pool says that it switched tracking on, and it is off."""


def switch_on(session: Session, ref: str, record: XapiRecord) -> str | None:
    """Why this backup cannot build on the last one though tracking is on now; None: it has been on before.

    `ref` and `record` are the live VDI's. Raises CannotTrack, TrackingStaysOff, and XapiError for anything
    else, e.g. storage that is not plugged in.
    """
    if record["cbt_enabled"]:
        return None
    try:
        session.call_async("VDI.enable_cbt", ref)
    except XapiFailure as failure:
        if failure.code in _CANNOT:
            raise CannotTrack(f"{_CANNOT[failure.code]} ({failure.code})") from failure
        raise
    if not is_on(session, ref):
        raise TrackingStaysOff("the pool says that it switched changed-block tracking on, but it is off")
    return SWITCHED_ON


def is_on(session: Session, ref: str) -> bool:
    """Asked again after the snapshot: when the new log cannot be made, the snapshot succeeds and the live
    disk is no longer tracked (message VDI_CBT_SNAPSHOT_FAILED)."""
    return bool(session.call("VDI.get_record", ref)["cbt_enabled"])
