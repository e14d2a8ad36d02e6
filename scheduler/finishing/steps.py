"""The steps `finish-vm` and `end-run`: restore point first, then the pool is cleaned up, then the result.

    every disk complete or failed
        -> segments of the complete ones -> the point, written last and conditionally: the commit
        -> VM snapshot destroyed -> data of committed snapshots destroyed -> older metadata snapshots removed
        -> result

Each step can be run again from its start after a crash and comes to the same end.
"""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from functools import partial
from typing import Any

from scheduler.context import ControlContext
from scheduler.finishing.after_run import after_run
from scheduler.planning.rebaseline import compared_point
from scheduler.planning.recorded import VmRecord
from scheduler.policies.requests import RunRequest
from scheduler.pool_objects.cleanup import clean_up_vm
from scheduler.retry import with_retries
from workers.errors import CbtfleetError
from workers.fleet import DiskProgress
from workers.repository import DiskPoint, Point, VmMetadata, point_id

log = logging.getLogger(__name__)


def finish_vm(context: ControlContext, run: str, vm_uuid: str) -> None:
    """Commits one VM's restore point and cleans up behind it."""
    request = RunRequest.from_facts(context.ledger.run_facts(run)["request"])
    facts = context.ledger.vm_facts(run, vm_uuid)
    disks = [disk for disk in context.ledger.progress(run).disks if disk.vm == vm_uuid]
    rows = {disk.disk: _row(facts, vm_uuid, disk) for disk in disks}
    committed: list[DiskPoint] = []
    if facts.get("committed"):
        committed = _found_committed(context, run, vm_uuid, facts, rows)
    elif context.ledger.is_cancelled(run):
        for row in rows.values():
            row["error"] = row["error"] or "not committed: the run was cancelled"
    else:
        committed = _commit(context, run, vm_uuid, request, facts, disks, rows)
    facts["rows"] = list(rows.values())
    # Kept before the pool is touched: whatever happens there, the run's result says what was committed.
    context.ledger.set_vm_facts(run, vm_uuid, facts)

    elsewhere = {each["vdi"] for each in facts.get("skipped", []) if each.get("elsewhere")}

    def clean_up() -> None:
        with context.sessions.borrow(request.pool) as session:
            clean_up_vm(session, context, run, vm_uuid, facts.get("snapshot"), committed, elsewhere)

    try:
        with_retries(clean_up)
    except CbtfleetError as error:
        line = f'VM "{facts["name"]}": not everything of this run could be removed from the pool: {error}'
        log.warning("%s", line)
        facts["warning"] = line
    context.ledger.finish_vm(run, vm_uuid, facts)


def _commit(
    context: ControlContext,
    run: str,
    vm_uuid: str,
    request: RunRequest,
    facts: dict[str, Any],
    disks: list[DiskProgress],
    rows: dict[str, dict[str, Any]],
) -> list[DiskPoint]:
    """Writes the segments and the point; disks whose packs don't add up are failed in `rows`."""
    committed = []
    for disk in disks:
        if disk.state != "complete":
            continue
        try:
            committed.append(with_retries(partial(_disk_point, context, run, vm_uuid, disk)))
        except CbtfleetError as error:
            line = f'VM "{facts["name"]}", disk {disk.facts["name"]}: not committed: {error}'
            rows[disk.disk]["error"] = line
            log.warning("%s", line)
    if not committed:
        return []
    point = Point(
        id=point_id(run, vm_uuid),
        vm=facts["name"],
        vm_uuid=vm_uuid,
        time=facts["time"],
        run=run,
        pool=request.pool,
        policy=request.policy,
        disks=tuple(committed),
        metadata=VmMetadata(**facts["metadata"]) if "metadata" in facts else None,
    )
    try:
        with_retries(partial(context.repository.commit_point, point))
    except CbtfleetError as error:
        line = f'VM "{facts["name"]}": the restore point was not written: {error}'
        log.warning("%s", line)
        for disk_point in committed:
            rows[disk_point.vdi]["error"] = line
        return []
    for disk_point in committed:
        rows[disk_point.vdi]["point"] = point.id
    log.info('VM "%s": restore point %s with %d disks', facts["name"], point.id, len(committed))
    return committed


def _found_committed(
    context: ControlContext, run: str, vm_uuid: str, facts: dict[str, Any], rows: dict[str, dict[str, Any]]
) -> list[DiskPoint]:
    """The VM's point was written before Redis forgot the run: its rows are made again as far as is known."""
    point = context.repository.point_of_run(run, vm_uuid)
    record = VmRecord.load(context.repository, run, vm_uuid)
    committed = list(point.disks) if point is not None else []
    of_point = {disk.vdi: disk for disk in committed}
    for planned in record.disks if record is not None else []:
        disk = of_point.get(planned["disk"])
        rows[planned["disk"]] = {
            "vm": facts["name"],
            "vm_uuid": vm_uuid,
            "vdi": planned["disk"],
            "name": planned["facts"]["name"],
            "mode": planned["facts"]["mode"],
            "reason": planned["facts"]["reason"],
            "changed_bytes": planned["facts"]["changed_bytes"],
            "read_bytes": disk.read_bytes if disk else 0,
            "stored_bytes": disk.stored_bytes if disk else 0,
            "seconds": 0.0,
            "bytes_per_second": None,
            "point": point.id if point and disk else None,
            "error": None if disk else "it failed before Redis forgot the run; the scheduler's log has why",
        }
    return committed


def _disk_point(context: ControlContext, run: str, vm_uuid: str, disk: DiskProgress) -> DiskPoint:
    facts = disk.facts
    parent = None
    if facts["mode"] == "incremental":
        parent = context.repository.disk_of_snapshot(vm_uuid, disk.disk, facts["incremental_to"])
    plan = context.repository.plan(run, disk.disk)
    earlier = compared_point(context.repository, vm_uuid, disk.disk, facts)
    return DiskPoint(
        vdi=disk.disk,
        name=facts["name"],
        userdevice=facts["userdevice"],
        virtual_size=plan.virtual_size,
        snapshot=facts["snapshot"],
        sr=facts["sr"],
        mode=facts["mode"],
        reason=facts["reason"],
        changed_bytes=facts["changed_bytes"],
        read_bytes=disk.read_bytes,
        stored_bytes=disk.stored_bytes,
        segments=context.repository.write_segments(run, disk.disk, plan, parent, earlier),
    )


def _row(facts: dict[str, Any], vm_uuid: str, disk: DiskProgress) -> dict[str, Any]:
    """One disk of the run's result. Its seconds, and so its speed, count from its plan: waiting included."""
    seconds = _seconds(disk)
    return {
        "vm": facts["name"],
        "vm_uuid": vm_uuid,
        "vdi": disk.disk,
        "name": disk.facts["name"],
        "mode": disk.facts["mode"],
        "reason": disk.facts["reason"],
        "changed_bytes": disk.facts["changed_bytes"],
        "read_bytes": disk.read_bytes,
        "stored_bytes": disk.stored_bytes,
        "seconds": seconds,
        "bytes_per_second": round(disk.read_bytes / seconds) if seconds else None,
        "point": None,
        "error": disk.error,
    }


def _seconds(disk: DiskProgress) -> float:
    return 0.0 if disk.ended is None else round(disk.ended - disk.started, 3)


def _unplanned_rows(facts: dict[str, Any], vm_uuid: str) -> list[dict[str, Any]]:
    """The disks that never got a plan, as they failed or were skipped, and the VM itself if one of its steps
    failed."""
    unplanned = [{"vdi": vdi, **said} for vdi, said in facts.get("failed", {}).items()]
    unplanned += facts.get("skipped", [])
    if "error" in facts:
        unplanned.append({"vdi": None, "error": facts["error"]})
    return [
        {
            "vm": facts["name"],
            "vm_uuid": vm_uuid,
            "vdi": said["vdi"],
            "name": said.get("name"),
            "mode": None,
            "reason": said.get("reason"),
            "changed_bytes": 0,
            "read_bytes": 0,
            "stored_bytes": 0,
            "seconds": 0.0,
            "bytes_per_second": None,
            "point": None,
            "error": said.get("error"),
        }
        for said in unplanned
    ]


def end_run(context: ControlContext, run: str) -> None:
    """Sums the run up, in the repository and in the ledger; then what follows a run."""
    after_run(context, _end_run(context, run))


def _end_run(context: ControlContext, run: str) -> dict[str, Any]:
    facts = context.ledger.run_facts(run)
    kept = context.repository.result(run)
    if kept is not None:  # another scheduler's, or from before Redis forgot that the run had ended
        context.repository.close_run(run, kept)
        context.ledger.end_run(run, kept)
        return kept
    progress = context.ledger.progress(run)
    rows = [
        row for vm in progress.vms for row in [*vm.facts.get("rows", []), *_unplanned_rows(vm.facts, vm.vm)]
    ]
    trigger = RunRequest.from_facts(facts["request"]).trigger
    skipped = None if trigger is None else trigger.skipped
    result = {
        "run": run,
        "status": "skipped" if skipped else _status(rows, facts.get("error"), cancelled=progress.cancelled),
        "policy": facts["request"]["policy"],
        "pool": facts["request"]["pool"],
        "slot": None if trigger is None else trigger.slot,
        "started": facts["started"],
        "ended": datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
        "error": facts.get("error") or skipped,
        "warnings": [line for vm in progress.vms for line in _warnings(vm.facts)],
        "disks": rows,
    }
    # Kept for the case that the repository takes it not: the ledger then ends the run with it.
    context.ledger.set_run_facts(run, {**facts, "result": result})
    context.repository.close_run(run, result)
    context.ledger.end_run(run, result)
    log.info("run %s ended: %s", run, result["status"])
    return result


def _warnings(facts: dict[str, Any]) -> list[str]:
    return [*facts.get("warnings", []), *([facts["warning"]] if "warning" in facts else [])]


def _status(rows: list[dict[str, Any]], error: str | None, *, cancelled: bool) -> str:
    """What was skipped counts neither way."""
    if cancelled:
        return "cancelled"
    failed = sum(row["error"] is not None for row in rows)
    done = sum(row["error"] is None and row["mode"] is not None for row in rows)
    if error is not None or (failed and not done):
        return "failed"
    return "partial" if failed else "succeeded"
