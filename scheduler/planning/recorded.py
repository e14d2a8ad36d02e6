"""How one VM of a run was planned, as the repository keeps it while the run is open: `runs/<run>/vms/<vm>`.

It is written before anything is read, and says what the ledger was told; the bitmaps are kept beside it. So
after Redis has forgotten everything the run goes on with the same snapshot:

    record -> the snapshot still there? -> the plan, from bitmaps/ -> packs that are there are done -> ledger
                      | no
                      v
              the disk fails, unless every batch has its pack
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace

from scheduler.policies.requests import RunRequest
from scheduler.runs.values import FailedDisk, PlannedDisk, PlannedVm, VmFacts
from workers.errors import CbtfleetError
from workers.fleet import DiskWork
from workers.repository import DamagedObject, ObjectMissing, Repository
from workers.xenapi import Session, XapiFailure, is_gone

log = logging.getLogger(__name__)


class SnapshotGone(CbtfleetError):
    """The snapshot that a run was reading has been removed from the pool."""


def record_of(facts: VmFacts, works: Sequence[DiskWork]) -> PlannedVm:
    """What is kept of a VM that has just been planned."""
    disks = (
        PlannedDisk(work.disk, work.snapshot, work.virtual_size, work.hosts, work.facts) for work in works
    )
    return PlannedVm(facts, tuple(disks))


def resume_vm(
    repository: Repository,
    session: Session,
    request: RunRequest,
    run: str,
    vm_uuid: str,
    record: PlannedVm,
) -> tuple[VmFacts, list[DiskWork]]:
    """The facts of a VM that was planned before, and its disks as they are to be done now.

    A disk that cannot be gone on with is named in the facts' `failed`, with its reason.
    """
    works = []
    failed = list(record.facts.failed)
    for disk in record.disks:
        try:
            works.append(_work(repository, session, request, run, vm_uuid, disk))
        except (SnapshotGone, DamagedObject, ObjectMissing) as error:
            line = f"{_disk_name(disk)}: {error}"
            log.warning("%s", line)
            failed.append(FailedDisk(disk.disk, disk.facts.name, line))
    return replace(record.facts, failed=tuple(failed)), works


def _work(
    repository: Repository,
    session: Session,
    request: RunRequest,
    run: str,
    vm_uuid: str,
    disk: PlannedDisk,
) -> DiskWork:
    plan = repository.plan(run, disk.disk)
    stored = repository.stored_batches(run, disk.disk, disk.snapshot, plan)
    if len(stored.batches) < plan.batches:
        _check_snapshot(session, disk.snapshot)
    if stored.batches:
        log.info(
            "%s: %d of %d batches are in the store already",
            _disk_name(disk),
            len(stored.batches),
            plan.batches,
        )
    return DiskWork(
        run=run,
        vm=vm_uuid,
        disk=disk.disk,
        pool=request.pool,
        snapshot=disk.snapshot,
        virtual_size=disk.virtual_size,
        batches=plan.batches,
        hosts=disk.hosts,
        weight=request.weight,
        facts=disk.facts,
        plan=plan.pack(),
        attempts=request.retry.attempts,
        give_up_after=request.retry.give_up_after,
        done=stored.batches,
        read_bytes=stored.read_bytes,
        stored_bytes=stored.stored_bytes,
    )


def _disk_name(disk: PlannedDisk) -> str:
    return f'VM "{disk.facts.vm_name}", disk {disk.facts.name or disk.disk}'


def _check_snapshot(session: Session, uuid: str) -> None:
    """Raises SnapshotGone when there is nothing to read (any more)."""
    try:
        record = session.call("VDI.get_record", session.call("VDI.get_by_uuid", uuid))
    except XapiFailure as failure:
        if not is_gone(failure):
            raise
        raise SnapshotGone(
            f"its snapshot {uuid} is no longer on the pool, so it cannot be read on"
        ) from failure
    if record["type"] == "cbt_metadata":
        raise SnapshotGone(
            f"the data of its snapshot {uuid} was removed from the pool, so it cannot be read on"
        )
