"""How a run's result looks to a person, and which exit code it means."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from rich.console import Console

from scheduler.commands.invocation import CANCELLED, FAILED
from scheduler.runs.values import ResultRow, RunResult
from scheduler.terminal.tables import TextTable, duration, size

DISK_FIELDS = (
    "vm",
    "vm_uuid",
    "vdi",
    "mode",
    "reason",
    "changed_bytes",
    "read_bytes",
    "stored_bytes",
    "seconds",
    "point",
    "error",
)


@dataclass(frozen=True)
class RunSummary:
    """A run in a list of runs. `status` is a result's, or the state of a run that goes on."""

    run: str
    status: str
    policy: str | None
    pool: str | None
    started: str
    ended: str | None
    error: str | None
    disks: int
    failed_disks: int
    read_bytes: int
    stored_bytes: int


def exit_code(status: str) -> int:
    return {"succeeded": 0, "cancelled": CANCELLED}.get(status, FAILED)


def outcome(result: RunResult) -> Mapping[str, object]:
    """A result with exactly the fields that `backup --wait --json` promises, and, as in every failed
    command's object, the `error` when the run failed as a whole.

    Every row is a disk: that a drive was empty, or a VM had none, only `status RUN` says. A row has
    `warnings` too when there are any.
    """
    disks = [
        {field: getattr(row, field) for field in DISK_FIELDS}
        | ({"warnings": list(row.warnings)} if row.warnings else {})
        for row in result.disks
        if row.vdi or not row.is_skipped
    ]
    said = {"run": result.run, "status": result.status, "disks": disks}
    return said | ({"error": result.error} if result.error else {})


def summary(result: RunResult) -> RunSummary:
    """A result without its disks, for lists of runs."""
    disks = [row for row in result.disks if not row.is_skipped]
    return RunSummary(
        run=result.run,
        status=result.status,
        policy=result.policy,
        pool=result.pool,
        started=result.started,
        ended=result.ended,
        error=result.error,
        disks=len(disks),
        failed_disks=sum(row.error is not None for row in disks),
        read_bytes=sum(row.read_bytes for row in disks),
        stored_bytes=sum(row.stored_bytes for row in disks),
    )


def show_result(console: Console, result: RunResult) -> None:
    console.print(f"Run {result.run}: {result.status}.")
    for line in (result.error, *result.warnings):
        if line:
            console.print(f"  {line}", markup=False)
    if not result.disks:
        return
    table = TextTable("VM", "disk", "mode", "changed", "read", "stored", "took", "speed", "point")
    for row in result.disks:
        numbers = [size(count) for count in (row.changed_bytes, row.read_bytes, row.stored_bytes)]
        pace = [duration(row.seconds), _speed(row)]
        table.add_row(row.vm, row.vdi or "-", row.mode or "-", *numbers, *pace, row.point or "-")
    console.print(str(table), markup=False)
    for row in result.disks:
        if row.error:
            console.print(f"  {row.vm} {row.vdi or ''}: {row.error}", markup=False)
        elif row.mode == "full" and row.reason:
            console.print(f"  {row.vm} {row.vdi}: full, because {row.reason}", markup=False)
        elif row.reason and row.is_skipped:
            console.print(f"  {row.vm} {row.vdi or ''}: {row.reason}", markup=False)
        for line in row.warnings:
            console.print(f"  {row.vm} {row.vdi}: {line}", markup=False)


def _speed(row: ResultRow) -> str:
    return f"{size(row.bytes_per_second)}/s" if row.bytes_per_second else "-"
