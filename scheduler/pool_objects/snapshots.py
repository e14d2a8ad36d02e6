"""Snapshots on the pool: making them recognisable, finding them again, and letting go of them.

    VM snapshot "cbtfleet/<run>"  --holds-->  VDI snapshots, tagged in other_config
                                                |  data_destroy after the commit
                                                v
                                   cbt_metadata: the next base; older ones of ours are destroyed

A VM snapshot is recognised by its name, which XAPI sets in the same call that makes it: a call that was
sent twice, or a crash right after it, leaves nothing that could not be found again. Before a VM snapshot
goes, its disks are tagged, as nothing else leads to them afterwards.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from scheduler.pool_objects.ownership import OwnershipTag, tag_of
from workers.xenapi import (
    NULL_REF,
    Session,
    XapiFailure,
    XapiRecord,
    is_gone,
    is_unknown_call,
    record_or_none,
)

log = logging.getLogger(__name__)

_XAPI_TIME = re.compile(r"\d{8}T\d\d:\d\d:\d\d")


@dataclass(frozen=True)
class DiskSnapshot:
    """A VDI snapshot, and the live VDI it is of."""

    ref: str
    uuid: str
    live_ref: str
    live_uuid: str
    name: str
    userdevice: str
    sr_uuid: str
    virtual_size: int
    cbt_enabled: bool
    time: str
    """When it was made, ISO 8601 in UTC, by the pool's clock."""
    live_cbt: bool = True
    """Whether tracking was on at the live VDI afterwards; False when that is gone."""
    vm_uuid: str = ""
    """The VM that the disk was snapshotted with; "" when that is gone."""
    power: str = ""
    """That VM's state then, as XAPI names it; "": unknown."""


@dataclass(frozen=True)
class VmSnapshot:
    """A VM snapshot with at least one disk."""

    ref: str
    uuid: str
    disks: tuple[DiskSnapshot, ...]
    vm_uuid: str = ""
    """The VM it is of; "" when that is gone."""
    name: str = ""
    is_a_snapshot: bool = True

    @property
    def time(self) -> str:
        """When the first disk was snapshotted: XAPI takes them one after the other."""
        return min(disk.time for disk in self.disks)


def snapshot_name(run: str) -> str:
    return f"cbtfleet/{run}"


def live_disks(session: Session, vm: XapiRecord) -> dict[str, XapiRecord]:
    """The VDI records behind a VM's disk drives by VDI ref; CD drives and empty drives are left out."""
    disks = {}
    for vbd_ref in vm["VBDs"]:
        vbd = session.call("VBD.get_record", vbd_ref)
        if _holds_disk(vbd):
            disks[vbd["VDI"]] = session.call("VDI.get_record", vbd["VDI"])
    return disks


def _holds_disk(vbd: XapiRecord) -> bool:
    return vbd["type"] == "Disk" and not vbd.get("empty") and vbd["VDI"] != NULL_REF


def find_vm_snapshots(session: Session, run: str, vm_ref: str) -> list[str]:
    """Refs of the VM snapshots that this run has made of this VM: none, one, or two after a re-sent call."""
    return [ref for ref, made_by in vm_snapshots_by_run(session, vm_ref) if made_by == run]


def vm_snapshots_by_run(session: Session, vm_ref: str) -> list[tuple[str, str]]:
    """Ref and run of every VM snapshot of this VM that a run has made, by its name; ascending by uuid."""
    found = []
    for ref in session.call("VM.get_record", vm_ref).get("snapshots", ()):
        record = record_or_none(session, "VM", ref)
        if record and (name := str(record["name_label"])).startswith(snapshot_name("")):
            found.append((str(record["uuid"]), ref, name.removeprefix(snapshot_name(""))))
    return [(ref, run) for _, ref, run in sorted(found)]


def snapshots_named_after(session: Session, run: str) -> list[str]:
    """Refs of all VM snapshots on the pool with this run's name: for a VM that is gone, which has no list."""
    name = snapshot_name(run)
    try:
        records = session.call("VM.get_all_records_where", f'field "name__label"="{name}"')
    except XapiFailure as failure:
        if not is_unknown_call(failure):
            raise
        records = session.call("VM.get_all_records")
    return sorted(ref for ref, record in records.items() if record["name_label"] == name)


def is_tagged(session: Session, snapshot: VmSnapshot, repository_id: str) -> bool:
    """Whether a run of this repository made the VM snapshot: any of its disks carries the tag."""
    records = (record_or_none(session, "VDI", disk.ref) for disk in snapshot.disks)
    return any(record and tag_of(record, repository_id) for record in records)


def take_vm_snapshot(
    session: Session,
    run: str,
    vm_ref: str,
    without: Iterable[str],
    repository_id: str,
    discard: Callable[[str], None],
    tracked: Iterable[str] = (),
) -> VmSnapshot:
    """Snapshots a VM once for this run, however often it is called; `without` are VDI refs to leave out.

    `discard` destroys a VM snapshot (a ref) of this run that is one too many. `tracked` are VDI refs that had
    tracking on before. Where the storage failed to go on with it, it is switched on again and the snapshot
    taken once more: else the next backup would have no base either. Raises XapiError when the pool refuses.
    """
    left_out = list(without)
    found = find_vm_snapshots(session, run, vm_ref)
    if found:
        ref, *extra = found
        for each in extra:
            discard(each)
    else:
        ref = _take(session, run, vm_ref, left_out)
    snapshot = describe_vm_snapshot(session, ref)
    lost = [disk.live_ref for disk in snapshot.disks if disk.live_ref in set(tracked) and not disk.live_cbt]
    if lost and _switch_on_again(session, lost):
        log.warning("VM %s: tracking was lost at the snapshot; it is taken again", snapshot.vm_uuid)
        discard(ref)
        snapshot = describe_vm_snapshot(session, _take(session, run, vm_ref, left_out))
    tag_disks(session, snapshot, run, repository_id)
    return snapshot


def _take(session: Session, run: str, vm_ref: str, left_out: list[str]) -> str:
    # only when it is needed: XAPI learnt to leave disks out later than to take snapshots
    arguments = [left_out] if left_out else []
    return session.call_async("VM.snapshot", vm_ref, snapshot_name(run), *arguments)


def _switch_on_again(session: Session, live_refs: Iterable[str]) -> bool:
    try:
        for ref in live_refs:
            session.call_async("VDI.enable_cbt", ref)
    except XapiFailure as failure:
        log.warning("%s", failure)
        return False
    return True


def describe_vm_snapshot(session: Session, ref: str) -> VmSnapshot:
    """Its disks; `live_ref` and `live_uuid` are "" for one whose live disk has been deleted meanwhile."""
    record = session.call("VM.get_record", ref)
    vm = record_or_none(session, "VM", record["snapshot_of"]) or {}
    power = record.get("snapshot_info", {}).get("power-state-info") or vm.get("power_state", "")
    disks = []
    for vbd_ref in record["VBDs"]:
        vbd = session.call("VBD.get_record", vbd_ref)
        if not _holds_disk(vbd):
            continue
        vdi = session.call("VDI.get_record", vbd["VDI"])
        live = record_or_none(session, "VDI", vdi["snapshot_of"])
        disks.append(
            DiskSnapshot(
                ref=vbd["VDI"],
                uuid=vdi["uuid"],
                live_ref=vdi["snapshot_of"] if live else "",
                live_uuid=live["uuid"] if live else "",
                name=vdi["name_label"],
                userdevice=str(vbd["userdevice"]),
                sr_uuid=session.call("SR.get_record", vdi["SR"])["uuid"],
                virtual_size=int(vdi["virtual_size"]),
                cbt_enabled=bool(vdi["cbt_enabled"]),
                time=iso_time(vdi.get("snapshot_time", "")),
                live_cbt=bool(live and live["cbt_enabled"]),
                vm_uuid=str(vm.get("uuid", "")),
                power=str(power),
            )
        )
    disks.sort(key=lambda disk: (len(disk.userdevice), disk.userdevice))
    return VmSnapshot(
        ref,
        record["uuid"],
        tuple(disks),
        vm_uuid=str(vm.get("uuid", "")),
        name=str(record["name_label"]),
        is_a_snapshot=bool(record["is_a_snapshot"]),
    )


def iso_time(xapi_time: Any) -> str:
    """XAPI's `20260101T12:00:00Z`, with or without hyphens, as `2026-01-01T12:00:00Z`.

    Now, where XAPI gives no time: an unset one is 1970, which would be no restore point's order.
    """
    text = str(xapi_time).replace("-", "")
    if not _XAPI_TIME.match(text) or text.startswith("1970"):
        return f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"
    return f"{text[:4]}-{text[4:6]}-{text[6:8]}T{text[9:17]}Z"


def tag_disks(session: Session, snapshot: VmSnapshot, run: str, repository_id: str) -> None:
    """Tags each disk of a VM snapshot as ours; what is gone meanwhile is passed over."""
    for disk in snapshot.disks:
        try:
            OwnershipTag(run, repository_id, disk.uuid, disk.vm_uuid, disk.live_uuid, disk.power).write(
                session, disk.ref
            )
        except XapiFailure as failure:
            if not is_gone(failure):
                raise


def our_snapshots_of(session: Session, live_ref: str, repository_id: str) -> dict[str, XapiRecord]:
    """The VDI snapshots of a disk that carry this repository's tag, by ref."""
    found = {}
    for ref in session.call("VDI.get_record", live_ref)["snapshots"]:
        record = record_or_none(session, "VDI", ref)
        if record and tag_of(record, repository_id):
            found[ref] = record
    return found
