"""What became of a disk's changed-block log since its base snapshot, from XAPI's own messages.

base snapshot ---- messages of the VDI: why tracking went off ----> now
              ---- messages of the VM: was it shut down, or did its host die under it?

The judgement is pure. Planning asks for one object's messages at a time (`message.get`, which reads no
others); the doctor has read those of all objects before.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Protocol

from scheduler.pool_objects.ownership import TAG_REPOSITORY, tag_of
from scheduler.pool_objects.snapshots import iso_time
from workers.xenapi import Session, XapiFailure, XapiRecord, is_unknown_call

_WHY = {
    "VDI_CBT_METADATA_INCONSISTENT": "its host went down while the disk was in use, so the log was not"
    " trusted any more when the disk was next opened",
    "VDI_CBT_SNAPSHOT_FAILED": "the storage could not begin a new log at a snapshot",
    "VDI_CBT_RESIZE_FAILED": "the storage could not resize the log with the disk",
}
_STARTED = ("VM_STARTED", "VM_RESUMED", "VM_REBOOTED")
_STOPPED = ("VM_SHUTDOWN", "VM_SUSPENDED")


@dataclass(frozen=True)
class Message:
    """`time` is ISO 8601 in UTC, to the second."""

    time: str
    name: str


class Messages(Protocol):
    """XAPI's records of its messages about one object, of `since` (ISO 8601) or later. Perhaps earlier ones
    too."""

    def of_disk(self, uuid: str, since: str) -> Iterable[XapiRecord]:
        """Of a VDI; none when they are not known."""

    def of_vm(self, uuid: str, since: str) -> Iterable[XapiRecord] | None:
        """None when this pool keeps no messages. Raises what says that they cannot be known now."""


@dataclass(frozen=True)
class LogSinceBase:
    """A `ChangeLog`. `disk` and `vm` are uuids, `power` is the VM's state at the new snapshot as XAPI names
    it, `base` is the base snapshot's record."""

    messages: Messages
    disk: str
    vm: str
    power: str
    base: XapiRecord

    def why_off(self) -> str:
        since = taken_at(self.base)
        return why_off(messages_since(self.messages.of_disk(self.disk, since), since))

    def may_lack_writes(self) -> bool:
        if self.power != "Halted":
            return False
        since = taken_at(self.base)
        records = self.messages.of_vm(self.vm, since)
        if records is None:
            return False  # no XAPI is without messages, so this is none, and what it would say is not known
        tag = tag_of(self.base, self.base["other_config"].get(TAG_REPOSITORY, ""))
        return may_lack_writes(messages_since(records, since), tag.power if tag is not None else "")


@dataclass(frozen=True)
class AskedMessages:
    """`Messages` of a pool that is asked for them one object at a time."""

    session: Session

    def of_disk(self, uuid: str, since: str) -> Iterable[XapiRecord]:
        return _records(self.session.aside("message.get", "VDI", uuid, later_than(since)))

    def of_vm(self, uuid: str, since: str) -> Iterable[XapiRecord] | None:
        """Raises XapiError."""
        try:
            return _records(self.session.call("message.get", "VM", uuid, later_than(since)))
        except XapiFailure as failure:
            if not is_unknown_call(failure):
                raise
            return None


def taken_at(base: XapiRecord) -> str:
    """When a snapshot was made, ISO 8601 in UTC."""
    return iso_time(base.get("snapshot_time", ""))


def later_than(since: str) -> str:
    """What to ask XAPI for messages of `since` or later: it gives those that are later than what it is asked
    for, and knows their times to the second (xapi_message.ml, `get`)."""
    before = datetime.strptime(since, "%Y-%m-%dT%H:%M:%SZ") - timedelta(seconds=1)
    return f"{before:%Y%m%dT%H:%M:%SZ}"


def messages_since(records: Iterable[XapiRecord], since: str) -> list[Message]:
    """Those of `since` or later, ascending; of one second, a stop comes after a start."""
    found = [Message(iso_time(record["timestamp"]), str(record["name"])) for record in records]
    return sorted(
        (each for each in found if each.time >= since),
        key=lambda each: (each.time, each.name in _STOPPED, each.name),
    )


def why_off(messages: Sequence[Message]) -> str:
    """XAPI's newest reason for switching a disk's tracking off, by its messages since the base, ascending;
    "" when it gives none."""
    said = [each for each in messages if each.name in _WHY]
    return f"{_WHY[said[-1].name]} ({said[-1].name} of {said[-1].time})" if said else ""


def may_lack_writes(messages: Sequence[Message], power_at_base: str) -> bool:
    """Whether the log of a VM that is off may lack its last writes, by the VM's messages since the base.

    A host that dies takes with it what was not on the storage yet of the logs of its VMs' disks. The storage
    manager notices when such a disk is next opened for writing, and then switches tracking off; but the log
    of a VM that stays off is not looked at, and a snapshot makes it look sound (sm/VDI.py, _cbt_snapshot).
    """
    names = [each.name for each in messages if each.name in _STARTED + _STOPPED]
    return names[-1] in _STARTED if names else power_at_base != "Halted"


def _records(answer: Any) -> Iterable[XapiRecord]:
    return list(answer.values()) if isinstance(answer, Mapping) else []
