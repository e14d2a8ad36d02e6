"""What a run leaves on the pool, and how it is removed.

VM snapshot of this run            destroyed (its VBDs block everything else)
ours of earlier runs, left over    destroyed, unless its run is still going
VDI snapshot, committed            data destroyed, metadata kept: the next base
VDI snapshot, not committed        destroyed; also one without metadata, which can be no base
our older metadata snapshots       destroyed, unless a run that is still going needs them

The restore point is committed before, so nobody waits for this: hosts get GRACE seconds, all disks of the VM
together, to let go. What they still have then is said, and is the next look for orphans' business.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator

from scheduler.context import ControlContext
from scheduler.pool_objects.ownership import tag_of
from scheduler.pool_objects.snapshots import (
    GRACE,
    describe_vm_snapshot,
    destroy_vdi,
    is_tagged,
    live_disks,
    our_snapshots_of,
    purge_data,
    tag_disks,
    vm_snapshots_by_run,
)
from scheduler.runs.states import is_going
from workers.errors import CbtfleetError
from workers.repository import DiskPoint
from workers.xenapi import Session, XapiFailure, ref_or_none


class LeftOnPool(CbtfleetError):
    """Something of ours could not be removed yet; the next look for orphans tries again."""


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
    Safe to repeat. Raises XapiError when the pool does not answer or a VM snapshot could not be removed, and
    LeftOnPool with a word on each disk snapshot that is still there.
    """
    until = time.monotonic() + GRACE
    left: list[str] = []
    live: dict[str, str] = {}
    for point in committed:
        live_ref = ref_or_none(session, "VDI", point.vdi)
        if live_ref is not None:
            live[point.vdi] = live_ref
    snapshots: set[str] = set()
    vm_ref = ref_or_none(session, "VM", vm_uuid)
    if vm_ref is not None:
        for ref, record in live_disks(session, session.call("VM.get_record", vm_ref)).items():
            live[record["uuid"]] = ref
        snapshots.update(_vm_snapshots(session, context, run, vm_ref))
    if snapshot_uuid is not None and (known := ref_or_none(session, "VM", snapshot_uuid)) is not None:
        snapshots.add(known)
    for snapshot_ref in snapshots:
        snapshot = describe_vm_snapshot(session, snapshot_ref)
        # those of a snapshot call that came through late, and twice, have no tag yet
        tag_disks(session, snapshot, run, context.repository.repository_id)
        session.call_async("VM.destroy", snapshot_ref)
        for disk in snapshot.disks:
            if disk.live_ref:
                live[disk.live_uuid] = disk.live_ref
                continue
            try:  # nothing leads to it any more, and no backup will build upon it
                destroy_vdi(session, disk.ref, until)
            except XapiFailure as failure:
                left.append(str(failure))
    for vdi_uuid, live_ref in live.items():
        if vdi_uuid in elsewhere:
            continue
        left += _clean_up_disk(session, context, run, vm_uuid, vdi_uuid, live_ref, until)
    if left:
        raise LeftOnPool(f"{'; '.join(sorted(set(left)))}; the scheduler tries again by itself")


def _vm_snapshots(session: Session, context: ControlContext, run: str, vm_ref: str) -> Iterator[str]:
    """Those of this run, and of earlier ones of this repository that could not be removed at the time."""
    repository = context.repository.repository_id
    for ref, made_by in vm_snapshots_by_run(session, vm_ref):
        if made_by == run or (
            is_tagged(session, describe_vm_snapshot(session, ref), repository)
            and not is_going(context.ledger, context.repository, made_by)
        ):
            yield ref


def _clean_up_disk(
    session: Session,
    context: ControlContext,
    run: str,
    vm_uuid: str,
    vdi_uuid: str,
    live_ref: str,
    until: float,
) -> Iterator[str]:
    """Says what is still there, and why."""
    repository = context.repository
    last = repository.latest_disk(vm_uuid, vdi_uuid)
    base = last.snapshot if last is not None else None
    ours = our_snapshots_of(session, live_ref, repository.repository_id)
    base_is_there = any(record["uuid"] == base for record in ours.values())
    for ref, record in ours.items():
        made = tag_of(record, repository.repository_id)
        made_by = made.run if made is not None else ""
        purged = record["type"] == "cbt_metadata"
        try:
            if record["uuid"] == base and (purged or record["cbt_enabled"]):
                if not purged:
                    purge_data(session, ref, until)
            elif (
                record["uuid"] == base
                or made_by == run
                or (base_is_there and not is_going(context.ledger, repository, made_by))
            ):
                destroy_vdi(session, ref, until)
        except XapiFailure as failure:
            yield f"snapshot {record['uuid']} of disk {record['name_label'] or vdi_uuid}: {failure}"
