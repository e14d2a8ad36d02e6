"""How a run's result looks to a person, and which exit code it means."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console

from scheduler.commands.invocation import CANCELLED, FAILED
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


def exit_code(status: str) -> int:
    return {"succeeded": 0, "cancelled": CANCELLED}.get(status, FAILED)


def outcome(result: Mapping[str, Any]) -> dict[str, Any]:
    """A result with exactly the fields that `backup --wait --json` promises, and, as in every failed
    command's object, the `error` when the run failed as a whole.

    Every row is a disk: that a drive was empty, or a VM had none, only `status RUN` says.
    """
    disks = [
        {field: disk.get(field) for field in DISK_FIELDS}
        for disk in result["disks"]
        if disk.get("vdi") or not _is_skipped(disk)
    ]
    outcome: dict[str, Any] = {"run": result["run"], "status": result["status"], "disks": disks}
    return outcome | ({"error": result["error"]} if result.get("error") else {})


def summary(result: Mapping[str, Any]) -> dict[str, Any]:
    """A result without its disks, for lists of runs."""
    disks = [disk for disk in result["disks"] if not _is_skipped(disk)]
    facts = {key: result.get(key) for key in ("run", "status", "policy", "pool", "started", "ended", "error")}
    return facts | {
        "disks": len(disks),
        "failed_disks": sum(bool(disk.get("error")) for disk in disks),
        "read_bytes": sum(disk.get("read_bytes") or 0 for disk in disks),
        "stored_bytes": sum(disk.get("stored_bytes") or 0 for disk in disks),
    }


def _is_skipped(disk: Mapping[str, Any]) -> bool:
    return disk.get("mode") is None and not disk.get("error")


def _speed(disk: Mapping[str, Any]) -> str:
    speed = disk.get("bytes_per_second")
    return f"{size(speed)}/s" if speed else "-"


def show_result(console: Console, result: Mapping[str, Any]) -> None:
    console.print(f"Run {result['run']}: {result['status']}.")
    for line in (result.get("error"), *result.get("warnings", [])):
        if line:
            console.print(f"  {line}", markup=False)
    if not result["disks"]:
        return
    table = TextTable("VM", "disk", "mode", "changed", "read", "stored", "took", "speed", "point")
    for disk in result["disks"]:
        numbers = [size(disk.get(key) or 0) for key in ("changed_bytes", "read_bytes", "stored_bytes")]
        pace = [duration(disk.get("seconds") or 0), _speed(disk)]
        table.add_row(
            disk["vm"], disk["vdi"] or "-", disk.get("mode") or "-", *numbers, *pace, disk.get("point") or "-"
        )
    console.print(str(table), markup=False)
    for disk in result["disks"]:
        if disk.get("error"):
            console.print(f"  {disk['vm']} {disk['vdi'] or ''}: {disk['error']}", markup=False)
        elif disk.get("mode") == "full" and disk.get("reason"):
            console.print(f"  {disk['vm']} {disk['vdi']}: full, because {disk['reason']}", markup=False)
        elif disk.get("reason") and _is_skipped(disk):
            console.print(f"  {disk['vm']} {disk['vdi'] or ''}: {disk['reason']}", markup=False)
