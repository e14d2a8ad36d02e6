"""What became of a disk's changed-block tracking since its base snapshot, from XAPI's own messages.

    base snapshot ---- messages of the VDI: why tracking went off ----> now
                  ---- messages of the VM: was it shut down, or did its host die under it?

`message.get` is asked, as it reads one object's messages only; XAPI answers `get_all_records_where` with all
messages of the pool, whatever the expression says (xapi_message.ml). A server without it tells us nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from scheduler.pool_objects.ownership import TAG_REPOSITORY, tag_of
from scheduler.pool_objects.snapshots import DiskSnapshot, iso_time
from workers.xenapi import Session, XapiFailure, XapiRecord, is_unknown_call

_WHY = {
    "VDI_CBT_METADATA_INCONSISTENT": "its host went down while the disk was in use, so the log was not"
    " trusted any more when the disk was next opened",
    "VDI_CBT_SNAPSHOT_FAILED": "the storage could not begin a new log at a snapshot",
    "VDI_CBT_RESIZE_FAILED": "the storage could not resize the log with the disk",
}
_STARTED = ("VM_STARTED", "VM_RESUMED", "VM_REBOOTED")
_STOPPED = ("VM_SHUTDOWN", "VM_SUSPENDED")


def why_it_went_off(session: Session, live_uuid: str, base: XapiRecord) -> str | None:
    """XAPI's newest reason for switching a disk's tracking off since the base; None: it gives none."""
    said = [each for each in _messages(session.aside, "VDI", live_uuid, base) if each[1] in _WHY]
    if not said:
        return None
    when, name = said[-1]
    return f"{_WHY[name]} ({name} of {when})"


def may_lack_writes(session: Session, disk: DiskSnapshot, base: XapiRecord) -> str | None:
    """Why the log since the base may lack the last writes, if it may.

    A host that dies takes with it what was not on the storage yet of the logs of its VMs' disks. The storage
    manager notices when such a disk is next opened for writing, and then switches tracking off; but the log
    of a VM that stays off is not looked at, and a snapshot makes it look sound (sm/VDI.py, _cbt_snapshot).
    """
    if disk.power != "Halted":
        return None
    try:
        messages = _messages(session.call, "VM", disk.vm_uuid, base)
    except XapiFailure as failure:
        if not is_unknown_call(failure):
            raise
        return None  # no XAPI is without messages, so this is none, and what it would say is not known
    words = [name for _, name in messages if name in _STARTED + _STOPPED]
    if words:
        unsure = words[-1] in _STARTED
    else:
        mark = tag_of(base, base["other_config"].get(TAG_REPOSITORY, ""))
        unsure = mark is None or mark.power != "Halted"
    if not unsure:
        return None
    return (
        "the VM is off, and the pool does not say that it was shut down: if its host went down, the last"
        " changes are in no log"
    )


def _messages(ask: Callable[..., Any], kind: str, uuid: str, base: XapiRecord) -> list[tuple[str, str]]:
    """Time and name of each message about an object since the base was made, ascending; a stop after a start
    of the same second."""
    since = iso_time(base.get("snapshot_time", ""))
    found = ask("message.get", kind, uuid, since.replace("-", ""))
    if not isinstance(found, Mapping):
        return []
    said = [(iso_time(record["timestamp"]), str(record["name"])) for record in found.values()]
    return sorted(
        (each for each in said if each[0] >= since), key=lambda each: (each[0], each[1] in _STOPPED, each[1])
    )
