"""What of ours is on a pool and belongs to no run that goes on: found here, removed by `removing`.

    two listings (all VM snapshots, all VDI snapshots) and one list of VDI refs, however large the pool
      -> whose tag or name is ours, and whose run has ended          (runs/<run>/open)
      -> the newest restore point of their disks                      (only where more than a base is there)
      -> what plugs them in, and the ledger's slots                   (only where something does)

Asked in this order, so nothing that begins meanwhile can be mistaken for an orphan: a run is open
before it makes anything, and its restore point is written before it is closed.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Literal

from scheduler.context import ControlContext
from scheduler.pool_objects.fate import Fate, SnapshotState, judge
from scheduler.pool_objects.ownership import OwnershipTag, tag_of
from scheduler.pool_objects.snapshots import snapshot_name
from workers.repository import DamagedObject, DiskPoint
from workers.xenapi import Session, XapiRecord, XapiRecords, record_or_none, records_where, ref_or_none

MOST = 500
"""Orphans that one look names at most: the next one goes on."""

Kind = Literal["attachment", "VM snapshot", "disk snapshot", "snapshot data", "metadata snapshot"]


@dataclass(frozen=True)
class Orphan:
    """One thing, what it is and why it may go; or, with `kept`, why it has to stay for now.

    An attachment is a control domain's VBD of one of our snapshots. Of "snapshot data" only the data goes:
    the metadata is the next backup's base. What is found is a list to look at: before anything goes, it is
    proved again (`destruction.py`).
    """

    kind: Kind
    ref: str = field(repr=False)
    uuid: str
    name: str
    run: str
    why: str
    kept: str | None = None
    tag: OwnershipTag | None = None
    """Of a disk snapshot, and of the one that an attachment plugs in; None: nobody came to tag it."""
    disk_ref: str = field(default="", repr=False)
    """Of an attachment: the VDI that it plugs in."""


def find_orphans(session: Session, context: ControlContext, pool: str) -> list[Orphan]:
    """In the order in which they have to go. Raises XapiError, StoreError, LedgerError: then nothing is
    known, and nothing may be removed."""
    return _Look(session, context, pool).found()


class _Look:
    def __init__(self, session: Session, context: ControlContext, pool: str) -> None:
        self._session = session
        self._context = context
        self._pool = pool
        self._repository_id = context.repository.repository_id
        self._going: dict[str, bool] = {}
        self._known: set[str] | None = None
        self._points: dict[tuple[str, str], DiskPoint | None] = {}

    def found(self) -> list[Orphan]:
        disks = records_where(self._session, "VDI", "is_a_snapshot")
        vms = records_where(self._session, "VM", "is_a_snapshot")
        every_disk = frozenset(self._session.call("VDI.get_all"))
        tags = {ref: tag for ref, vdi in disks.items() if (tag := tag_of(vdi, self._repository_id))}
        ours = self._vm_snapshots(vms, disks, tags)
        going_vbds = {vbd for each in ours if each.kept is not None for vbd in vms[each.ref]["VBDs"]}
        held = {vbd: each for each in ours if each.kept is None for vbd in vms[each.ref]["VBDs"]}
        found: list[Orphan] = []
        for ref in self._candidates(disks, tags, held, every_disk):
            vdi = disks[ref]
            made_by = next((held[vbd].run for vbd in vdi["VBDs"] if vbd in held), None)
            run = tags[ref].run if ref in tags else made_by
            if run is None or self._is_going(run) or going_vbds & set(vdi["VBDs"]):
                continue
            found += self._disk(ref, vdi, run, tags.get(ref), held, disks, every_disk)
            if len(found) >= MOST:
                break
        order: list[Kind] = ["attachment", "VM snapshot"]
        found += [each for each in ours if each.kept is None]
        return sorted(found, key=lambda each: order.index(each.kind) if each.kind in order else len(order))

    def _vm_snapshots(
        self, vms: XapiRecords, disks: XapiRecords, tags: Mapping[str, OwnershipTag]
    ) -> list[Orphan]:
        """Those of runs of this repository; with `kept` where the run goes on."""
        tagged_vbds = {vbd for ref in tags for vbd in disks[ref]["VBDs"]}
        found = []
        for ref, vm in vms.items():
            run = str(vm["name_label"]).removeprefix(snapshot_name(""))
            if run == vm["name_label"] or not run:
                continue
            if not tagged_vbds & set(vm["VBDs"]) and not self._is_ours(run):
                continue  # another fleet's, or somebody's who likes our names
            found.append(
                Orphan(
                    kind="VM snapshot",
                    ref=ref,
                    uuid=str(vm["uuid"]),
                    name=str(vm["name_label"]),
                    run=run,
                    why=f"run {run} has ended",
                    kept="its run goes on" if self._is_going(run) else None,
                )
            )
        return found

    def _candidates(
        self,
        disks: XapiRecords,
        tags: Mapping[str, OwnershipTag],
        held: Collection[str],
        every_disk: Collection[str],
    ) -> list[str]:
        """Our snapshots but for what every disk has that is backed up: its base, alone, without data."""
        alike: dict[str, int] = {}
        for ref in tags:
            alike[disks[ref]["snapshot_of"]] = alike.get(disks[ref]["snapshot_of"], 0) + 1
        return [
            ref
            for ref, vdi in disks.items()
            if (
                ref in tags
                and (
                    vdi["type"] != "cbt_metadata"
                    or alike[vdi["snapshot_of"]] > 1
                    or vdi["snapshot_of"] not in every_disk
                )
            )
            or any(vbd in held for vbd in vdi["VBDs"])
        ]

    def _disk(
        self,
        ref: str,
        vdi: XapiRecord,
        run: str,
        tag: OwnershipTag | None,
        held: Collection[str],
        disks: XapiRecords,
        every_disk: Collection[str],
    ) -> list[Orphan]:
        """The snapshot itself, when it may go, and before it what plugs it in."""
        kind, why = self._judged(vdi, run, tag, disks, every_disk)
        if kind is None:
            return []
        attached: list[Orphan] = []
        others: list[str] = []
        for vbd in vdi["VBDs"]:
            if vbd in held:
                continue
            found = self._attachment(vbd, ref, vdi, run, tag)
            if isinstance(found, str):
                others.append(found)
            elif found is not None:
                attached.append(found)
        kept = next(iter(others), None) or next((each.kept for each in attached if each.kept), None)
        name = str(vdi["name_label"] or vdi["uuid"])
        return [*attached, Orphan(kind, ref, str(vdi["uuid"]), name, run, why, kept, tag)]

    def _judged(
        self,
        vdi: XapiRecord,
        run: str,
        tag: OwnershipTag | None,
        disks: XapiRecords,
        every_disk: Collection[str],
    ) -> tuple[Kind | None, str]:
        if tag is None:  # a disk of a VM snapshot that nobody came to tag: nothing was read from it
            return "disk snapshot", f"run {run} has ended and never used it"
        state = SnapshotState(
            uuid=str(vdi["uuid"]),
            has_data=vdi["type"] != "cbt_metadata",
            tracked=bool(vdi["cbt_enabled"]),
            disk_is_gone=vdi["snapshot_of"] not in every_disk
            or ref_or_none(self._session, "VDI", tag.disk) is None,
        )
        try:
            last = self._newest(tag)
        except DamagedObject:
            return None, "the newest restore point of its disk cannot be read"
        base = last.snapshot if last is not None else None
        there = base is not None and any(each["uuid"] == base for each in disks.values())
        return _kind(judge(state, run=run, going=False, newest=base, newest_is_there=there), state)

    def _attachment(
        self, ref: str, disk_ref: str, vdi: XapiRecord, run: str, tag: OwnershipTag | None
    ) -> Orphan | str | None:
        """What plugs the snapshot in; text when it is no business of ours, and the snapshot has to stay."""
        vbd = record_or_none(self._session, "VBD", ref)
        vm = None if vbd is None else record_or_none(self._session, "VM", vbd["VM"])
        if vbd is None or vm is None:
            return None
        if not vm["is_control_domain"]:
            return f'VM "{vm["name_label"]}" has it'
        slot = self._slot(run, tag.disk) if tag is not None else None
        return Orphan(
            kind="attachment",
            ref=ref,
            uuid=str(vbd["uuid"]),
            name=f"{vdi['name_label'] or vdi['uuid']} in {vm['name_label']}",
            run=run,
            why="an NBD server left it plugged in, and no slot of the ledger has this disk",
            kept=slot,
            tag=tag,
            disk_ref=disk_ref,
        )

    def _slot(self, run: str, disk: str) -> str | None:
        """Why a connection may be open still: a paused process keeps its own beyond every lease."""
        ledger = self._context.ledger
        if ledger.barrier_left() > 0:
            return "Redis may have forgotten connections, and who has one has not spoken up yet"
        for host in ledger.hosts():
            if host.pool != self._pool:
                continue
            for slot in ledger.slots(host.pool, host.host):
                if slot.state != "FREE" and (slot.run, slot.disk) == (run, disk):
                    return (
                        f"slot {slot.number} of host {host.host} may have a connection to it still:"
                        " see cbtfleet slots"
                    )
        return None

    def _newest(self, tag: OwnershipTag) -> DiskPoint | None:
        key = (tag.vm, tag.disk)
        if key not in self._points:
            self._points[key] = self._context.repository.latest_disk(*key) if all(key) else None
        return self._points[key]

    def _is_going(self, run: str) -> bool:
        if run not in self._going:
            self._going[run] = self._context.repository.run_is_open(run)
        return self._going[run]

    def _is_ours(self, run: str) -> bool:
        """A VM snapshot whose disks nobody came to tag has only its name: one of our runs?"""
        if self._known is None:
            self._known = self._context.repository.run_names()
        return run in self._known


def _kind(fate: Fate, state: SnapshotState) -> tuple[Kind | None, str]:
    if fate.action == "keep":
        return None, fate.why
    if fate.action == "purge":
        return "snapshot data", fate.why
    return "disk snapshot" if state.has_data else "metadata snapshot", fate.why
