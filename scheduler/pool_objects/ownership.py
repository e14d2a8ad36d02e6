"""The tag that says of a VDI snapshot that we made it, and what for; kept in its other_config.

XAPI copies other_config wherever it copies a disk: VM.revert makes the live disk from our snapshot, and every
later snapshot of that disk, anybody's, carries what ours carried. So the tag names the very snapshot that it
was written on, and counts on no other; and it names the disk, as a revert rewrites `snapshot_of` too.
"""

from __future__ import annotations

from dataclasses import dataclass

from workers.xenapi import Session, XapiFailure, XapiRecord

TAG_RUN = "cbtfleet:run"
TAG_REPOSITORY = "cbtfleet:repository"
TAG_SNAPSHOT = "cbtfleet:snapshot"
TAG_VM = "cbtfleet:vm"
TAG_DISK = "cbtfleet:disk"
TAG_POWER = "cbtfleet:power"


@dataclass(frozen=True)
class OwnershipTag:
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
        """The repository last: a tag that was only begun is none."""
        return {
            TAG_RUN: self.run,
            TAG_SNAPSHOT: self.snapshot,
            TAG_VM: self.vm,
            TAG_DISK: self.disk,
            TAG_POWER: self.power,
            TAG_REPOSITORY: self.repository,
        }


def tag_of(vdi: XapiRecord, repository_id: str) -> OwnershipTag | None:
    """The tag of a VDI record; None when this repository did not make the VDI, or it only has a copy of
    the tag of one that it made."""
    there = vdi["other_config"]
    if there.get(TAG_REPOSITORY) != repository_id or there.get(TAG_SNAPSHOT) != vdi["uuid"]:
        return None
    if not there.get(TAG_RUN):
        return None
    return OwnershipTag(
        run=str(there.get(TAG_RUN, "")),
        repository=repository_id,
        snapshot=str(vdi["uuid"]),
        vm=str(there.get(TAG_VM, "")),
        disk=str(there.get(TAG_DISK, "")),
        power=str(there.get(TAG_POWER, "")),
    )
