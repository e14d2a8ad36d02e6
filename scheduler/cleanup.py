"""What a run leaves on the pool, and how it is removed.

VM snapshot of this run            destroyed (its VBDs block everything else)
ours of earlier runs, left over    destroyed, unless its run is still going
VDI snapshot, committed            data destroyed, metadata kept: the next base
VDI snapshot, not committed        destroyed; also one without metadata, which can be no base
our older metadata snapshots       destroyed, unless a run that is still going needs them
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

from scheduler.context import ControlContext
from scheduler.snapshots import (
    MARK_RUN,
    describe_vm_snapshot,
    destroy_vdi,
    is_marked,
    live_disks,
    mark,
    our_snapshots_of,
    purge_data,
    vm_snapshots_by_run,
)
from workers.fleet import UnknownToLedger
from workers.repository import DiskPoint
from workers.xenapi import Session, XapiFailure


def clean_up_vm(
    session: Session,
    context: ControlContext,
    run: str,
    vm_uuid: str,
    snapshot_uuid: str | None,
    committed: list[DiskPoint],
    elsewhere: Collection[str] = (),
) -> None:
    """Leaves of each disk of the VM the newest committed metadata snapshot and nothing else of ours.

    `elsewhere` are the disks (uuids) that this run backs up with another VM: they are that VM's to clean up.
    Safe to repeat. Raises XapiError when something could not be removed; the rest may then still be there.
    """
    live: dict[str, str] = {}
    for disk in committed:
        live_ref = _find(session, "VDI", disk.vdi)
        if live_ref is not None:
            live[disk.vdi] = live_ref
    snapshots: set[str] = set()
    vm_ref = _find(session, "VM", vm_uuid)
    if vm_ref is not None:
        for ref, record in live_disks(session, session.call("VM.get_record", vm_ref)).items():
            live[record["uuid"]] = ref
        snapshots.update(_vm_snapshots(session, context, run, vm_ref))
    if snapshot_uuid is not None and (known := _find(session, "VM", snapshot_uuid)) is not None:
        snapshots.add(known)
    for snapshot_ref in snapshots:
        disks = describe_vm_snapshot(session, snapshot_ref).disks
        for snapshot in disks:
            # those of a snapshot call that came through late, and twice, have no mark yet
            mark(session, snapshot.ref, run, context.repository.repository_id)
        session.call_async("VM.destroy", snapshot_ref)
        for snapshot in disks:
            if snapshot.live_ref:
                live[snapshot.live_uuid] = snapshot.live_ref
            else:  # nothing leads to it any more, and no backup will build upon it
                destroy_vdi(session, snapshot.ref)
    for vdi_uuid, live_ref in live.items():
        if vdi_uuid in elsewhere:
            continue
        _clean_up_disk(session, context, run, vm_uuid, vdi_uuid, live_ref)


def _vm_snapshots(session: Session, context: ControlContext, run: str, vm_ref: str) -> Iterator[str]:
    """Those of this run, and of earlier ones of this repository that could not be removed at the time."""
    repository = context.repository.repository_id
    for ref, made_by in vm_snapshots_by_run(session, vm_ref):
        if made_by == run or (
            not _is_going(context, made_by)
            and is_marked(session, describe_vm_snapshot(session, ref), repository)
        ):
            yield ref


def _find(session: Session, kind: str, uuid: str) -> str | None:
    try:
        return str(session.call(f"{kind}.get_by_uuid", uuid))
    except XapiFailure as failure:
        if failure.code != "UUID_INVALID":
            raise
        return None


def _clean_up_disk(
    session: Session, context: ControlContext, run: str, vm_uuid: str, vdi_uuid: str, live_ref: str
) -> None:
    last = context.repository.latest_disk(vm_uuid, vdi_uuid)
    base = last.snapshot if last is not None else None
    ours = our_snapshots_of(session, live_ref, context.repository.repository_id)
    base_is_there = any(record["uuid"] == base for record in ours.values())
    for ref, record in ours.items():
        made_by = record["other_config"].get(MARK_RUN, "")
        purged = record["type"] == "cbt_metadata"
        if record["uuid"] == base and (purged or record["cbt_enabled"]):
            if not purged:
                purge_data(session, ref)
        elif record["uuid"] == base or made_by == run or (base_is_there and not _is_going(context, made_by)):
            destroy_vdi(session, ref)


def _is_going(context: ControlContext, run: str) -> bool:
    try:
        return context.ledger.run_state(run) != "ended"
    except UnknownToLedger:  # it ended long ago, or was lost with Redis and is resumed
        return context.repository.run_is_open(run)
