"""The mark that says of a VDI snapshot that we made it, and what for; kept in its other_config.

XAPI copies other_config wherever it copies a disk: VM.revert makes the live disk from our snapshot, and every
later snapshot of that disk, anybody's, carries what ours carried. So the mark names the very snapshot that it
was written on, and counts on no other; and it names the disk, as a revert rewrites `snapshot_of` too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from workers.xenapi import Session, XapiFailure

MARK_RUN = "cbtfleet:run"
MARK_REPOSITORY = "cbtfleet:repository"
MARK_SNAPSHOT = "cbtfleet:snapshot"
MARK_VM = "cbtfleet:vm"
MARK_DISK = "cbtfleet:disk"
MARK_POWER = "cbtfleet:power"


@dataclass(frozen=True)
class Mark:
    """All uuids; `power` is the VM's state at the snapshot as XAPI names it, or "" when it is unknown."""

    run: str
    repository: str
    snapshot: str
    vm: str
    disk: str
    power: str

    def write(self, session: Session, vdi_ref: str) -> None:
        """Into a VDI snapshot's other_config; writing it again changes nothing. Raises XapiError."""
        there = session.call("VDI.get_other_config", vdi_ref)
        for key, value in self._fields().items():
            if there.get(key) == value:
                continue
            if key in there:
                session.call("VDI.remove_from_other_config", vdi_ref, key)
            try:
                session.call("VDI.add_to_other_config", vdi_ref, key, value)
            except XapiFailure as failure:  # another scheduler was quicker
                now = session.call("VDI.get_other_config", vdi_ref)
                if failure.code != "MAP_DUPLICATE_KEY" or now.get(key) != value:
                    raise

    def _fields(self) -> dict[str, str]:
        """The repository last: a mark that was only begun is none."""
        return {
            MARK_RUN: self.run,
            MARK_SNAPSHOT: self.snapshot,
            MARK_VM: self.vm,
            MARK_DISK: self.disk,
            MARK_POWER: self.power,
            MARK_REPOSITORY: self.repository,
        }


def mark_of(vdi: Mapping[str, Any], repository_id: str) -> Mark | None:
    """The mark of a VDI record; None when this repository did not make the VDI, or it only has a copy of
    the mark of one that it made."""
    there = vdi["other_config"]
    if there.get(MARK_REPOSITORY) != repository_id or there.get(MARK_SNAPSHOT) != vdi["uuid"]:
        return None
    if not there.get(MARK_RUN):
        return None
    return Mark(
        run=str(there.get(MARK_RUN, "")),
        repository=repository_id,
        snapshot=str(vdi["uuid"]),
        vm=str(there.get(MARK_VM, "")),
        disk=str(there.get(MARK_DISK, "")),
        power=str(there.get(MARK_POWER, "")),
    )
