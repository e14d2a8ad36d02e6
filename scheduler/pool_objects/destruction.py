"""The only place that destroys anything on a pool. Right before each call it is proved, by the pool's own
records of that moment, that the object is ours and that nobody needs it.

    object          proved                                                        called
    VM snapshot     a snapshot, named after the run, of a VM that it backs up     VM.destroy
    disk snapshot   a snapshot, with our tag of the run on this very snapshot,    VDI.destroy
                    and its fate is so (fate.py)
    its data        the same                                                      VDI.data_destroy
    plugged disk    a control domain's VBD of a disk snapshot of ours             VBD.unplug, VBD.destroy

Nothing is destroyed by its uuid, nor because a message or Redis names it. What cannot be proved is left
alone, and said. While a host still has a disk the call is tried again, and all of it is proved again before.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from scheduler.pool_objects.fate import Action, Fate, SnapshotState, judge
from scheduler.pool_objects.ownership import OwnershipTag, tag_of
from scheduler.pool_objects.snapshots import VmSnapshot, describe_vm_snapshot, snapshot_name, tag_disks
from workers.errors import CbtfleetError
from workers.repository import DamagedObject, Repository
from workers.xenapi import Session, XapiFailure, XapiRecord, is_gone, record_or_none, ref_or_none

GRACE = 20.0
"""Seconds that hosts have to unplug an NBD server's disk after we have closed the connection. It takes them
less than one, or something is wrong there: then it is left to the next look for orphans."""


class NotProved(CbtfleetError):
    """An object on the pool is not what it was taken for: it is left alone."""


class Destruction:
    """Destroys what one repository's runs made on one pool. `own_run` is the run that cleans up behind
    itself: it no longer needs what it made of the VM in hand."""

    def __init__(self, session: Session, repository: Repository, own_run: str | None = None) -> None:
        self._session = session
        self._repository = repository
        self._own_run = own_run
        self._closed: set[str] = set()
        """Runs that were seen closed: that is final."""

    def vm_snapshot(self, ref: str, run: str, is_of: Callable[[VmSnapshot], bool]) -> VmSnapshot | None:
        """Destroys a VM snapshot; its disks are tagged before, and stay. Returns what it held; None: it is
        gone.

        `is_of` says whether it is a snapshot of the right VM. Raises NotProved, XapiError.
        """
        try:
            snapshot = describe_vm_snapshot(self._session, ref)
            if not snapshot.is_a_snapshot or snapshot.name != snapshot_name(run) or not is_of(snapshot):
                raise NotProved(
                    f'VM "{snapshot.name}" ({snapshot.uuid}) is no snapshot that run {run} made of this VM;'
                    " it is left alone"
                )
            if run != self._own_run and self.is_going(run):
                raise NotProved(f"VM snapshot {snapshot.uuid} stays: run {run} goes on")
            tag_disks(self._session, snapshot, run, self._repository.repository_id)
            self._session.call_async("VM.destroy", ref)
        except XapiFailure as failure:
            if not is_gone(failure):
                raise
            return None
        return snapshot

    def vm_snapshot_with_disks(
        self, ref: str, run: str, is_of: Callable[[VmSnapshot], bool], until: float
    ) -> None:
        """The same, and then its disks. Raises as both do."""
        snapshot = self.vm_snapshot(ref, run, is_of)
        for disk in snapshot.disks if snapshot is not None else ():
            tag = self.tag(disk.ref)
            if tag is not None:
                self.disk_snapshot(disk.ref, tag, until)

    def tag(self, ref: str) -> OwnershipTag | None:
        """The tag that a disk snapshot carries now; None: it is gone. Raises NotProved when it has none of
        ours."""
        record = record_or_none(self._session, "VDI", ref)
        if record is None:
            return None
        tag = tag_of(record, self._repository.repository_id)
        if tag is None:
            raise NotProved(f"VDI {record['uuid']} carries no tag of ours; it is left alone")
        return tag

    def disk_snapshot(self, ref: str, tag: OwnershipTag, until: float) -> Fate | None:
        """Does with a disk snapshot what its fate is; None: it is gone.

        `tag` is what it carried when it was found, `until` how long to try, on the monotonic clock. Raises
        NotProved, XapiFailure VDI_IN_USE, XapiError, StoreError, DamagedObject.
        """
        pause = 0.25
        while True:
            record = record_or_none(self._session, "VDI", ref)
            if record is None:
                return None
            fate = self._fate(record, tag)
            if fate.action == "keep":
                return fate
            try:
                self._session.call_async(_CALLS[fate.action], ref)
            except XapiFailure as failure:
                if is_gone(failure):
                    return None
                if failure.code != "VDI_IN_USE" or time.monotonic() + pause > until:
                    raise
            else:
                return fate
            time.sleep(pause)
            pause = min(pause * 2, 5.0)

    def detach(self, vbd_ref: str, disk_ref: str, tag: OwnershipTag) -> None:
        """Unplugs a disk snapshot from a control domain that an NBD server left it plugged in to."""
        vbd, disk = (
            record_or_none(self._session, "VBD", vbd_ref),
            record_or_none(self._session, "VDI", disk_ref),
        )
        if vbd is None or disk is None:
            return
        self._prove_ours(disk, tag)
        domain = record_or_none(self._session, "VM", str(vbd["VM"]))
        if vbd["VDI"] != disk_ref or domain is None or not domain["is_control_domain"]:
            raise NotProved(f"VBD {vbd['uuid']} is no control domain's of this snapshot; it is left alone")
        if self.is_going(tag.run):
            raise NotProved(f"VBD {vbd['uuid']} stays: run {tag.run} goes on")
        if vbd["currently_attached"]:
            self._session.call_async("VBD.unplug", vbd_ref)
        self._session.call_async("VBD.destroy", vbd_ref)

    def is_going(self, run: str) -> bool:
        """Whether a run may still need what it made: as long as its record is open, whatever Redis says."""
        if run not in self._closed and not self._repository.run_is_open(run):
            self._closed.add(run)
        return run not in self._closed

    def _fate(self, record: XapiRecord, tag: OwnershipTag) -> Fate:
        self._prove_ours(record, tag)
        if tag.run != self._own_run and self.is_going(tag.run):
            return Fate("keep", "its run goes on")
        if (holder := self._holder(record)) is not None:
            return Fate("keep", f'VM "{holder}" has it')
        try:
            newest = self._repository.latest_disk(tag.vm, tag.disk) if tag.vm and tag.disk else None
        except DamagedObject:
            return Fate("keep", "the newest restore point of its disk cannot be read")
        disk = record_or_none(self._session, "VDI", str(record["snapshot_of"]))
        state = SnapshotState(
            uuid=str(record["uuid"]),
            has_data=record["type"] != "cbt_metadata",
            tracked=bool(record["cbt_enabled"]),
            disk_is_gone=disk is None or disk["uuid"] != tag.disk,
        )
        base = newest.snapshot if newest is not None else None
        there = (
            base is not None and base != state.uuid and ref_or_none(self._session, "VDI", base) is not None
        )
        return judge(state, run=tag.run, going=False, newest=base, newest_is_there=there)

    def _holder(self, record: XapiRecord) -> str | None:
        """Another VM that has the snapshot as a disk: somebody attached it, to look into it perhaps. XAPI
        would destroy a disk that is not plugged in at the moment, and its VBD with it."""
        for vbd_ref in record["VBDs"]:
            vbd = record_or_none(self._session, "VBD", vbd_ref)
            vm = record_or_none(self._session, "VM", str(vbd["VM"])) if vbd is not None else None
            if vm is not None and not vm["is_control_domain"]:
                return str(vm["name_label"])
        return None

    def _prove_ours(self, record: XapiRecord, tag: OwnershipTag) -> None:
        if not record["is_a_snapshot"] or tag_of(record, self._repository.repository_id) != tag:
            raise NotProved(f"VDI {record['uuid']} does not carry our tag of run {tag.run}; it is left alone")


_CALLS: Mapping[Action, str] = {"purge": "VDI.data_destroy", "destroy": "VDI.destroy"}
