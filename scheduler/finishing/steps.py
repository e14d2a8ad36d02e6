"""The steps `finish-vm` and `end-run`: restore point first, then the pool is cleaned up, then the result.

    every disk complete or failed
        -> segments of the complete ones -> the point, written last and conditionally: the commit
        -> VM snapshot destroyed -> data of committed snapshots destroyed -> older metadata snapshots removed
        -> result

Each step can be run again from its start after a crash and comes to the same end.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial

from scheduler.context import ControlContext
from scheduler.finishing.after_run import after_run
from scheduler.planning.rebaseline import compared_point
from scheduler.policies.requests import RunRequest
from scheduler.pool_objects.cleanup import clean_up_vm
from scheduler.retry import with_retries
from scheduler.runs.facts import (
    VmInHand,
    failed_vm,
    keep_run_facts,
    opened_run,
    planned_vm,
    read_vm_facts,
    result_of,
    run_at_work,
    run_facts,
)
from scheduler.runs.values import (
    PlannedDisk,
    PlannedVm,
    ResultRow,
    RunFacts,
    RunResult,
    RunStatus,
    VmFacts,
    planned_row,
    unplanned_rows,
)
from workers.errors import CbtfleetError
from workers.fleet import DiskFacts, DiskProgress, RunProgress, VmProgress
from workers.records import RecordUnreadable
from workers.repository import DiskPoint, Point, point_id

log = logging.getLogger(__name__)


Rows = dict[str, ResultRow]
"""A VM's rows by disk."""


def finish_vm(context: ControlContext, run: str, vm_uuid: str) -> None:
    """Commits one VM's restore point and cleans up behind it."""
    request = run_at_work(context, run).request
    vm = VmInHand.from_ledger(context.ledger, run, vm_uuid)
    planned = planned_vm(context.repository, run, vm_uuid)
    facts = {disk.disk: disk.facts for disk in planned.disks} if planned is not None else {}
    disks = context.ledger.vm_disks(run, vm_uuid)
    rows = {disk.disk: _row(vm, disk, facts.get(disk.disk)) for disk in disks}
    committed: list[DiskPoint] = []
    if planned is None:
        pass  # nothing of it was read
    elif vm.facts.committed:
        committed = _found_committed(context, vm, planned, rows)
    elif context.ledger.is_cancelled(run):
        for disk, row in rows.items():
            rows[disk] = replace(row, error=row.error or "not committed: the run was cancelled")
    else:
        complete = {disk.disk: disk for disk in disks if disk.state == "complete"}
        committed = _commit(context, vm, request, planned, complete, rows)
    vm.facts = replace(vm.facts, rows=tuple(rows.values()))
    # Kept before the pool is touched: whatever happens there, the run's result says what was committed.
    vm.keep()

    elsewhere = {each.vdi for each in vm.facts.skipped if each.elsewhere and each.vdi is not None}

    def clean_up() -> None:
        with context.sessions.borrow(request.pool) as session:
            clean_up_vm(session, context, run, vm_uuid, committed, elsewhere)

    try:
        with_retries(clean_up)
    except CbtfleetError as error:
        line = f'VM "{vm.facts.name}": not everything of this run could be removed from the pool: {error}'
        log.warning("%s", line)
        vm.warn(line)
    vm.finish()


def _commit(
    context: ControlContext,
    vm: VmInHand,
    request: RunRequest,
    planned: PlannedVm,
    complete: Mapping[str, DiskProgress],
    rows: Rows,
) -> list[DiskPoint]:
    """Writes the segments and the point; disks whose packs don't add up are failed in `rows`."""
    name, time = planned.facts.name, planned.facts.time
    committed = []
    for disk in planned.disks:
        if disk.disk not in complete:
            continue
        try:
            make = partial(_disk_point, context, vm, disk, complete[disk.disk])
            committed.append(with_retries(make))
        except CbtfleetError as error:
            line = f'VM "{name}", disk {disk.facts.name}: not committed: {error}'
            rows[disk.disk] = replace(rows[disk.disk], error=line)
            log.warning("%s", line)
    if not committed or time is None:
        return []
    point = Point(
        id=point_id(vm.run, vm.uuid),
        vm=name,
        vm_uuid=vm.uuid,
        time=time,
        run=vm.run,
        pool=request.pool,
        policy=request.policy,
        disks=tuple(committed),
        metadata=planned.facts.metadata,
        previous=planned.facts.previous,
    )
    try:
        with_retries(partial(context.repository.commit_point, point))
    except CbtfleetError as error:
        line = f'VM "{name}": the restore point was not written: {error}'
        log.warning("%s", line)
        for each in committed:
            rows[each.vdi] = replace(rows[each.vdi], error=line)
        return []
    for each in committed:
        rows[each.vdi] = replace(rows[each.vdi], point=point.id)
    log.info('VM "%s": restore point %s with %d disks', name, point.id, len(committed))
    return committed


def _found_committed(
    context: ControlContext, vm: VmInHand, planned: PlannedVm, rows: Rows
) -> list[DiskPoint]:
    """The VM's point was written before Redis forgot the run: its rows are made again as far as is known."""
    point = context.repository.point_of_run(vm.run, vm.uuid)
    committed = list(point.disks) if point is not None else []
    of_point = {disk.vdi: disk for disk in committed}
    for each in planned.disks:
        row = planned_row(vm.uuid, each.disk, each.facts)
        disk = of_point.get(each.disk)
        if disk is None or point is None:
            error = "it failed before Redis forgot the run; the scheduler's log has why"
            rows[each.disk] = replace(row, error=error)
        else:
            rows[each.disk] = replace(
                row, read_bytes=disk.read_bytes, stored_bytes=disk.stored_bytes, point=point.id
            )
    return committed


def _disk_point(
    context: ControlContext, vm: VmInHand, planned: PlannedDisk, progress: DiskProgress
) -> DiskPoint:
    facts, repository = planned.facts, context.repository
    parent = None
    if facts.incremental_to is not None:
        parent = repository.disk_of_snapshot(vm.uuid, planned.disk, facts.incremental_to)
    plan = repository.plan(vm.run, planned.disk)
    earlier = compared_point(repository, vm.uuid, planned.disk, facts)
    return DiskPoint(
        vdi=planned.disk,
        name=facts.name,
        userdevice=facts.userdevice,
        virtual_size=plan.virtual_size,
        snapshot=planned.snapshot,
        sr=facts.sr,
        mode=facts.mode,
        reason=facts.reason,
        changed_bytes=facts.changed_bytes,
        read_bytes=progress.read_bytes,
        stored_bytes=progress.stored_bytes,
        segments=repository.write_segments(
            vm.run,
            planned.disk,
            planned.snapshot,
            plan,
            parent,
            earlier,
            committed=context.ledger.committed_packs(vm.run, planned.disk),
            alarm=lambda line: vm.warn(f'VM "{vm.facts.name}", {line}'),
        ),
    )


def _row(vm: VmInHand, disk: DiskProgress, planned: DiskFacts | None) -> ResultRow:
    if planned is None:
        error = disk.error or "it is not in what was recorded of the VM's plan, so it was not committed"
        return ResultRow(vm.facts.name, vm.uuid, disk.disk, error=error)
    seconds = 0.0 if disk.ended is None else round(disk.ended - disk.started, 3)
    return replace(
        planned_row(vm.uuid, disk.disk, planned),
        read_bytes=disk.read_bytes,
        stored_bytes=disk.stored_bytes,
        seconds=seconds,
        bytes_per_second=round(disk.read_bytes / seconds) if seconds else None,
        error=None if disk.state == "complete" else disk.error,
    )


def end_run(context: ControlContext, run: str) -> None:
    """Sums the run up, in the repository and in the ledger; then what follows a run."""
    after_run(context, _end_run(context, run))


def _end_run(context: ControlContext, run: str) -> RunResult:
    result = result_of(context.repository, run)
    if result is None:
        result = _sum_up(context, run)
    # else: another scheduler's, or from before Redis forgot that the run had ended
    context.repository.close_run(run, result.write())
    context.ledger.end_run(run, result.write())
    log.info("run %s ended: %s", run, result.status)
    return result


def _sum_up(context: ControlContext, run: str) -> RunResult:
    progress = context.ledger.progress(run)
    facts, error = _run_facts(context, run)
    vms = {each.vm: _vm_facts(context, run, each) for each in progress.vms}
    rows = [row for uuid, vm in vms.items() for row in (*vm.rows, *unplanned_rows(uuid, vm))]
    trigger = None if facts is None else facts.request.trigger
    skipped = None if trigger is None else trigger.skipped
    result = replace(
        failed_result(progress, facts, error or skipped),
        status="skipped" if skipped else _status(rows, error, cancelled=progress.cancelled),
        warnings=tuple(line for vm in vms.values() for line in vm.warnings),
        disks=tuple(rows),
    )
    if facts is not None:
        # Kept for the case that the repository takes it not: the ledger then ends the run with it.
        keep_run_facts(context.ledger, run, replace(facts, result=result))
    return result


def _run_facts(context: ControlContext, run: str) -> tuple[RunFacts | None, str | None]:
    """With the reason why the run failed, if it did. What cannot be read in Redis is taken from the bucket;
    None when the run has no record there either."""
    try:
        facts = run_facts(context.ledger, run)
    except RecordUnreadable as error:
        opened = opened_run(context.repository, run)
        if opened is None:
            return None, str(error)
        facts = RunFacts(opened.request, opened.started, error=str(error))
    else:
        opened = opened_run(context.repository, run)
        if opened is not None:  # what it was believed to be asked for
            facts = replace(facts, request=opened.request, started=opened.started)
    return facts, facts.error


def _vm_facts(context: ControlContext, run: str, vm: VmProgress) -> VmFacts:
    try:
        return read_vm_facts(vm.facts, run, vm.vm)
    except RecordUnreadable as error:
        return failed_vm(context.repository, run, vm.vm, str(error))


def failed_result(progress: RunProgress, facts: RunFacts | None, error: str | None) -> RunResult:
    """Of a run without a word about its VMs; `facts` is None when they cannot be read."""
    request = None if facts is None else facts.request
    trigger = None if request is None else request.trigger
    return RunResult(
        run=progress.run,
        status="failed",
        policy=None if request is None else request.policy,
        pool=None if request is None else request.pool,
        slot=None if trigger is None else trigger.slot,
        started=_iso(datetime.fromtimestamp(progress.created, UTC)) if facts is None else facts.started,
        ended=_iso(datetime.now(UTC)),
        error=error,
    )


def _iso(moment: datetime) -> str:
    return f"{moment:%Y-%m-%dT%H:%M:%SZ}"


def _status(rows: Sequence[ResultRow], error: str | None, *, cancelled: bool) -> RunStatus:
    """What was skipped counts neither way."""
    if cancelled:
        return "cancelled"
    failed = sum(row.error is not None for row in rows)
    done = sum(row.error is None and row.mode is not None for row in rows)
    if error is not None or (failed and not done):
        return "failed"
    return "partial" if failed else "succeeded"
