"""What a run leaves on the pool behind one VM, and how it is removed.

VM snapshots of this run, and left over ones of ours    destroyed: their VBDs block everything else
disk snapshots of ours                                  by their fate (fate.py)

The restore point is committed before, so nobody waits for this: hosts get GRACE seconds, all disks of the VM
together, to let go. What they still have then is said, and is the next look for orphans' business.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator

from scheduler.context import ControlContext
from scheduler.pool_objects.destruction import GRACE, Destruction, NotProved
from scheduler.pool_objects.ownership import OwnershipTag, tag_of
from scheduler.pool_objects.snapshots import (
    VmSnapshot,
    describe_vm_snapshot,
    is_tagged,
    live_disks,
    our_snapshots_of,
    snapshots_named_after,
    vm_snapshots_by_run,
)
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
    committed: Collection[DiskPoint],
    elsewhere: Collection[str] = (),
) -> None:
    """Leaves of each disk of the VM the newest committed metadata snapshot and nothing else of ours.

    `elsewhere` are the disks (uuids) that this run backs up with another VM: they are that VM's to clean up.
    Safe to repeat. Raises XapiError when the pool does not answer or a VM snapshot could not be removed, and
    LeftOnPool with a word on each disk snapshot that is still there.
    """
    until = time.monotonic() + GRACE
    destruction = Destruction(session, context.repository, own_run=run)
    live: dict[str, str] = {}
    for point in committed:
        live_ref = ref_or_none(session, "VDI", point.vdi)
        if live_ref is not None:
            live[point.vdi] = live_ref
    vm_ref = ref_or_none(session, "VM", vm_uuid)
    if vm_ref is not None:
        for ref, record in live_disks(session, session.call("VM.get_record", vm_ref)).items():
            live[record["uuid"]] = ref
    found: dict[str, OwnershipTag] = {}
    left: list[str] = []
    for ref, made_by in _vm_snapshots(session, context, run, vm_uuid, vm_ref):
        try:
            snapshot = destruction.vm_snapshot(
                ref, made_by, lambda each: _is_of(session, context, each, vm_uuid)
            )
        except NotProved as error:
            left.append(str(error))
            continue
        for disk in snapshot.disks if snapshot is not None else ():
            if disk.live_ref:
                live[disk.live_uuid] = disk.live_ref
            elif (tag := destruction.tag(disk.ref)) is not None:  # nothing else leads to it any more
                found[disk.ref] = tag
    for vdi_uuid, live_ref in live.items():
        if vdi_uuid not in elsewhere:
            for ref, record in our_snapshots_of(session, live_ref, context.repository.repository_id).items():
                tag = tag_of(record, context.repository.repository_id)
                assert tag is not None  # kept by our_snapshots_of
                found[ref] = tag
    left += _clean_up_disks(destruction, found, until)
    if left:
        raise LeftOnPool(f"{'; '.join(sorted(set(left)))}; the scheduler tries again by itself")


def _vm_snapshots(
    session: Session, context: ControlContext, run: str, vm_uuid: str, vm_ref: str | None
) -> Iterator[tuple[str, str]]:
    """Ref and run of those of this run, and of earlier ones of this repository that could not be removed at
    the time."""
    repository = context.repository.repository_id
    if vm_ref is None:
        for ref in snapshots_named_after(session, run):
            if _is_of(session, context, describe_vm_snapshot(session, ref), vm_uuid):
                yield ref, run
        return
    for ref, made_by in vm_snapshots_by_run(session, vm_ref):
        if made_by == run or (
            is_tagged(session, describe_vm_snapshot(session, ref), repository)
            and not context.repository.run_is_open(made_by)
        ):
            yield ref, made_by


def _is_of(session: Session, context: ControlContext, snapshot: VmSnapshot, vm_uuid: str) -> bool:
    """Whether it is a snapshot of this VM: by the pool, or, once the VM is gone, by our tags on its disks."""
    if snapshot.vm_uuid:
        return snapshot.vm_uuid == vm_uuid
    repository = context.repository.repository_id
    records = (session.call("VDI.get_record", disk.ref) for disk in snapshot.disks)
    tags = [tag_of(record, repository) for record in records]
    return any(tag is not None and tag.vm == vm_uuid for tag in tags)


def _clean_up_disks(destruction: Destruction, found: dict[str, OwnershipTag], until: float) -> Iterator[str]:
    """Says what is still there, and why."""
    for ref, tag in found.items():
        try:
            destruction.disk_snapshot(ref, tag, until)
        except (XapiFailure, NotProved) as error:
            yield f"snapshot {tag.snapshot} of disk {tag.disk}: {error}"
