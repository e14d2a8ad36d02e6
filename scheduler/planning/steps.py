"""The steps `plan-run` and `plan-vm`: from names to plans in the ledger.

A disk that can't be planned fails alone and is named with its reason; a VM that can't be snapshotted fails
alone; only what concerns the whole pool (login, selection) fails the run.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from datetime import UTC, datetime

from scheduler.context import ControlContext
from scheduler.planning.cbt import TrackingStaysOff, is_on, switch_on
from scheduler.planning.changes import BadBitmap, changes_since, last_disk
from scheduler.planning.concurrency import take_permit, take_permit_again
from scheduler.planning.disk_choice import Drive, choose_drives, read_drives
from scheduler.planning.full_reason import LOST_MEANWHILE, SWITCHED_ON, FullReason, Reason, left_out
from scheduler.planning.rebaseline import keep_comparison
from scheduler.planning.recorded import record_of, resume_vm
from scheduler.planning.selection import select_vms
from scheduler.planning.snapshot_hooks import SnapshotHooks
from scheduler.planning.vm_metadata import keep_vm_metadata
from scheduler.policies.requests import RunRequest
from scheduler.policies.retention import FUTURE
from scheduler.pool_objects.destruction import GRACE, Destruction
from scheduler.pool_objects.snapshots import DiskSnapshot, VmSnapshot, take_vm_snapshot
from scheduler.runs.facts import (
    VmInHand,
    believed_request,
    keep_planned_vm,
    open_run,
    opened_run,
    planned_vm,
    run_at_work,
    run_facts,
)
from scheduler.runs.values import FailedDisk, OpenRun, SkippedDrive, VmFacts
from workers.errors import CbtfleetError
from workers.extents import BitmapError
from workers.fleet import DiskFacts, DiskWork
from workers.repository import AlreadyWritten, DiskPoint, Repository
from workers.xenapi import NotExportable, Session, XapiFailure, nbd_endpoints

log = logging.getLogger(__name__)


class WindowOver(CbtfleetError):
    """The night's window was over before the VM's turn came."""


def plan_run(context: ControlContext, run: str) -> None:
    """Chooses the run's VMs, once: a run that is resumed has those that were recorded.

    A failure here ends the run with that one line as its error.
    """
    facts = run_facts(context.ledger, run)
    request = facts.request
    skipped = request.trigger is not None and request.trigger.skipped is not None
    ended = context.repository.result(run) is not None  # and Redis forgot that
    if skipped or ended:
        context.ledger.add_vms(run, {})
        return
    opened = opened_run(context.repository, run)
    if opened is None:
        request = believed_request(context.repository, run, facts)
        chosen = _choose(context, run, request)
        opened = open_run(context.repository, run, OpenRun(request, facts.started, chosen))
    vms = {uuid: VmFacts(name).write() for uuid, name in opened.vms.items()}
    context.ledger.add_vms(run, vms)


def _choose(context: ControlContext, run: str, request: RunRequest) -> dict[str, str]:
    """The name of each VM by uuid."""
    with context.sessions.borrow(request.pool) as session:
        chosen = select_vms(request, session.call("VM.get_all_records"))
    log.info("run %s: %d VMs of pool %s", run, len(chosen), request.pool)
    return {vm.uuid: vm.name for vm in chosen}


def plan_vm(context: ControlContext, run: str, vm_uuid: str) -> None:
    """Snapshots one VM, plans its disks and hands them to the ledger; never twice.

    What was planned is recorded before anything is read, so a run that is resumed goes on with the same
    snapshot, and reads only what has no pack yet.
    """
    ledger = context.ledger
    if ledger.vm_state(run, vm_uuid) != "planning":
        return
    opened = run_at_work(context, run)
    request = opened.request
    vm = VmInHand.from_ledger(ledger, run, vm_uuid)
    hooks = SnapshotHooks(context, request, vm)
    hooks.end_interrupted()
    if ledger.is_cancelled(run):
        ledger.start_vm(run, vm_uuid, [])
        return
    works: list[DiskWork] = []
    record = planned_vm(context.repository, run, vm_uuid)
    over = request.trigger.over(datetime.now(UTC)) if request.trigger is not None else None
    if record is None and over is not None:  # of one that was planned before, what is done is committed
        raise WindowOver(over)
    if record is not None and context.repository.point_of_run(run, vm_uuid) is not None:
        vm.facts = replace(record.facts, committed=True)
    else:
        if record is None:
            take_permit_again(context, request, run, vm_uuid)
        with context.sessions.borrow(request.pool) as session:
            planned = None
            if record is None:
                works = _VmPlanner(context, session, opened, vm, hooks).plan()
                planned = record_of(vm.facts, works)
                record = keep_planned_vm(context.repository, run, vm_uuid, planned)
            if record != planned:
                vm.facts, works = resume_vm(context.repository, session, request, run, vm_uuid, record)
    vm.keep()
    pool = context.settings.pool(request.pool)
    hosts = {host for work in works for host in work.hosts}
    ledger.set_hosts(request.pool, hosts, pool.connections_per_host, confirm=pool.reclaim == "confirmed")
    ledger.start_vm(run, vm_uuid, [_signed(context.repository, work) for work in works])


def _signed(repository: Repository, work: DiskWork) -> DiskWork:
    return replace(work, facts=replace(work.facts, signature=repository.sign_order(work.order).hex()))


class _VmPlanner:
    """One VM's disks, from tracking switched on to plans. What is said of each disk gets into the VM's
    facts."""

    def __init__(
        self,
        context: ControlContext,
        session: Session,
        opened: OpenRun,
        vm: VmInHand,
        hooks: SnapshotHooks,
    ) -> None:
        self._context = context
        self._session = session
        self._request = opened.request
        self._run_vms = opened.vms
        self._run = vm.run
        self._vm_uuid = vm.uuid
        self._vm = vm
        self._hooks = hooks
        self._failed: dict[str, FailedDisk] = {}
        self._skipped: list[SkippedDrive] = []
        self._left_out: list[str] = []
        """VDI refs that are not snapshotted."""

    def plan(self) -> list[DiskWork]:
        vm_ref = self._session.call("VM.get_by_uuid", self._vm_uuid)
        vm = self._session.call("VM.get_record", vm_ref)
        drives = self._choose(read_drives(self._session, vm))
        if drives:
            take_permit(self._context, self._session, self._request, self._run, vm, drives)
        tracking = {drive.ref: self._switch_tracking_on(drive) for drive in drives}
        drives = [drive for drive in drives if drive.ref not in self._left_out]
        works: list[DiskWork] = []
        if drives:
            snapshot = self._hooks.around(
                [drive.disk for drive in drives],
                lambda: self._take_snapshot(vm_ref, drives, tracking),
            )
            present = {disk.live_uuid for disk in snapshot.disks}
            previous = self._context.repository.newest_run(self._vm_uuid)
            self._vm.facts = replace(
                self._vm.facts, snapshot=snapshot.uuid, time=snapshot.time, previous=previous
            )
            self._look_at_clock(snapshot)
            keep_vm_metadata(self._context, self._session, self._vm)
            for disk in _each_once(snapshot.disks):
                # one without a live disk was deleted while it was snapshotted
                if not disk.live_ref or disk.live_ref in self._left_out:
                    continue
                work = self._plan_disk(disk, tracking.get(disk.live_ref), present)
                if work is not None:
                    works.append(work)
        failed, skipped = tuple(self._failed.values()), tuple(self._skipped)
        self._vm.facts = replace(self._vm.facts, failed=failed, skipped=skipped)
        return works

    def _look_at_clock(self, snapshot: VmSnapshot) -> None:
        """Said, because restore points show the pool's time; nothing is decided by it."""
        ahead = datetime.fromisoformat(snapshot.time) - datetime.now(UTC)
        if ahead > FUTURE:
            self._vm.warn(
                f'VM "{self._vm.facts.name}": the pool\'s clock is {ahead.total_seconds() / 60:.0f} min ahead'
                f" of this machine's ({snapshot.time}): set the time of both by NTP"
            )

    def _choose(self, drives: list[Drive]) -> list[Drive]:
        exclude = self._request.exclude_disks
        chosen, skipped = choose_drives(drives, exclude, self._vm_uuid, self._run_vms)
        for each in skipped:
            log.info('VM "%s": %s skipped: %s', self._vm.facts.name, each.name or "", each.reason)
            self._skip(each.vdi, each.name, each.reason, elsewhere=each.elsewhere)
            if each.ref:
                self._left_out.append(each.ref)
        return chosen

    def _take_snapshot(
        self, vm_ref: str, drives: list[Drive], tracking: Mapping[str, Reason | None]
    ) -> VmSnapshot:
        """Of the drives; one that the pool names as the reason why it refuses fails alone."""
        repository_id = self._context.repository.repository_id
        tracked = [drive.ref for drive in drives if tracking[drive.ref] in (None, SWITCHED_ON)]
        while True:
            try:
                return take_vm_snapshot(
                    self._session, self._run, vm_ref, self._left_out, repository_id, self._discard, tracked
                )
            except XapiFailure as failure:
                left = [drive for drive in drives if drive.ref not in self._left_out]
                blamed = [drive for drive in left if _names(failure, drive)]
                if not blamed or len(blamed) == len(left):
                    raise
                for drive in blamed:
                    self._fail_drive(drive, failure)

    def _discard(self, ref: str) -> None:
        """A VM snapshot of this run that is one too many, with its disks."""
        destruction = Destruction(self._session, self._context.repository, own_run=self._run)
        destruction.vm_snapshot_with_disks(
            ref, self._run, lambda each: each.vm_uuid == self._vm_uuid, time.monotonic() + GRACE
        )

    def _switch_tracking_on(self, drive: Drive) -> Reason | None:
        """Why this disk's tracking can't be built upon this time, if it can't. May leave the disk out."""
        try:
            tracking = switch_on(self._session, drive.ref, drive.disk)
        except (XapiFailure, TrackingStaysOff) as error:
            self._fail_drive(drive, error)
            return None
        out = left_out(tracking, self._request.without_tracking)
        if tracking is not None and out == "fail":
            self._fail_drive(drive, CbtfleetError(str(FullReason(tracking))))
        elif tracking is not None and out == "skip":
            self._skip(drive.disk["uuid"], drive.disk["name_label"], str(FullReason(tracking)))
            self._left_out.append(drive.ref)
        return tracking

    def _plan_disk(
        self, disk: DiskSnapshot, tracking: Reason | None, present: Collection[str]
    ) -> DiskWork | None:
        if tracking is None and not is_on(self._session, disk.live_ref):
            tracking = LOST_MEANWHILE
        repository = self._context.repository
        last, before = last_disk(repository, self._vm_uuid, disk, present)
        try:
            changes = changes_since(self._session, disk, last, tracking, before)
            endpoints = nbd_endpoints(self._session, disk.ref, self._disk_name(disk.name, disk.live_uuid))
            repository.keep_plan(self._run, disk.live_uuid, changes.plan)
        except (XapiFailure, NotExportable, BitmapError, BadBitmap, AlreadyWritten) as error:
            self._fail(disk.live_uuid, disk.name, error)
            return None
        name = self._disk_name(disk.name, disk.live_uuid)
        reason = str(changes.reason) if changes.reason is not None else None
        because = f" ({reason})" if reason else ""
        log.info("%s: %s, %d blocks%s", name, changes.mode, changes.plan.blocks, because)
        compared_with = None
        if changes.mode == "full" and isinstance(last, DiskPoint):
            compared_with = keep_comparison(repository, self._run, name, changes.plan, last)
        return DiskWork(
            run=self._run,
            vm=self._vm_uuid,
            disk=disk.live_uuid,
            pool=self._request.pool,
            snapshot=disk.uuid,
            virtual_size=disk.virtual_size,
            batches=changes.plan.batches,
            hosts=tuple(sorted({endpoint.host for endpoint in endpoints})),
            weight=self._request.weight,
            facts=DiskFacts(
                vm_name=self._vm.facts.name,
                name=disk.name,
                userdevice=disk.userdevice,
                sr=disk.sr_uuid,
                mode=changes.mode,
                reason=reason,
                changed_bytes=changes.plan.changed_bytes,
                incremental_to=changes.parent.snapshot if changes.parent else None,
                compared_with=compared_with,
                insecure=not all(endpoint.tls for endpoint in endpoints),
            ),
            plan=changes.plan.pack(),
            attempts=self._request.retry.attempts,
            give_up_after=self._request.retry.give_up_after,
        )

    def _fail_drive(self, drive: Drive, error: CbtfleetError) -> None:
        self._left_out.append(drive.ref)
        if isinstance(error, XapiFailure) and error.code.startswith("SR_"):
            error = CbtfleetError(f'{error}; it is on storage "{drive.sr.get("name_label")}"')
        self._fail(drive.disk["uuid"], drive.disk["name_label"], error)

    def _fail(self, disk: str, name: str, error: CbtfleetError) -> None:
        line = f"{self._disk_name(name, disk)}: {error}"
        log.warning("%s", line)
        self._failed[disk] = FailedDisk(disk, name, line)

    def _skip(self, vdi: str | None, name: str, why: str, *, elsewhere: bool = False) -> None:
        self._skipped.append(SkippedDrive(vdi, name, f"skipped: {why}", elsewhere))

    def _disk_name(self, name: str, disk: str) -> str:
        return f'VM "{self._vm.facts.name}", disk {name or disk}'


def _each_once(disks: Iterable[DiskSnapshot]) -> list[DiskSnapshot]:
    """A VDI that is attached twice is snapshotted twice."""
    return list({disk.live_uuid: disk for disk in reversed([*disks])}.values())[::-1]


def _names(failure: XapiFailure, drive: Drive) -> bool:
    """Whether the failure's parameters name the drive's disk, or its storage."""
    storage = drive.vdi["SR"] if drive.vdi is not None else ""
    return drive.ref in failure.params or storage in failure.params
