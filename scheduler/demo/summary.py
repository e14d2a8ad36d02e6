"""What a person reads at the end of the demo, and the same as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from rich.console import Console

from scheduler.demo.stage import CAP, STREAMS, WORKERS, Stage
from scheduler.demo.story import Backup, Told
from scheduler.terminal.tables import TextTable, duration, size


def as_json(told: Told, stage: Stage) -> Mapping[str, object]:
    return {
        "status": "failed" if told.faults() else "succeeded",
        "seconds": round(told.seconds, 3),
        "faults": told.faults(),
        "runs": [told.full.result, told.incremental.result],
        "restores": [
            {
                "point": one.point.id,
                "vdi": one.disk.vdi,
                "bytes": one.disk.virtual_size,
                "seconds": round(one.seconds, 3),
                "same": one.differs_at is None,
            }
            for one in told.comparisons
        ],
        "connections": {
            host["name"]: {"peak": told.log["peak"].get(host["uuid"], 0), "cap": CAP}
            for host in stage.pool["hosts"]
        },
    }


def show(console: Console, told: Told, stage: Stage) -> None:
    _show_disks(console, told, stage)
    _show_speed(console, told)
    _show_restores(console, told)
    _show_pool(console, told, stage)
    console.print()
    faults = told.faults()
    for fault in faults:
        console.print(f"WRONG: {fault}", markup=False)
    if faults:
        console.print(f"\nThe demo found {len(faults)} fault(s) in {duration(told.seconds)}.")
    else:
        console.print(f"All of it is right, in {duration(told.seconds)}.")


def show_next_steps(console: Console) -> None:
    console.print(
        "\nWhat to do next\n"
        "  cbtfleet demo --keep       leave it running to play with\n"
        "  write a cbtfleet.toml      for your pool and bucket (see README.md), then:\n"
        "  cbtfleet init              make the repository and its keys\n"
        "  cbtfleet doctor            see what is still missing\n"
        "  cbtfleet up                run scheduler and worker on this machine\n"
        "  cbtfleet backup --wait     back up"
    )


def show_how_to_play(console: Console, folder: Path, stage: Stage) -> None:
    vm = stage.pool["vms"][0]
    disk = vm["disks"][0]["vdi"]
    write = f'{{"vdi": "{disk}", "random": {{"seed": 7, "blocks": 100, "kind": "text"}}}}'
    console.print(
        f"\nIt is still running, in {folder}. In another terminal:\n\n"
        f"  source {folder}/environment\n"
        "  cbtfleet points\n"
        f"  curl -d '{write}' {stage.pool['control']}/write\n"
        f"  cbtfleet backup --pool lab --vm {vm['name']} --wait\n"
        "  cbtfleet runs; cbtfleet doctor; cbtfleet verify\n"
        f"  cbtfleet restore POINT --vdi {disk} --to disk.img\n\n"
        f"Logs are in {folder}/logs. Ctrl-C here stops everything and removes the folder.",
        markup=False,
    )


def _show_disks(console: Console, told: Told, stage: Stage) -> None:
    names = {disk["vdi"]: disk["name"] for vm in stage.pool["vms"] for disk in vm["disks"]}
    table = TextTable("backup", "VM", "disk", "mode", "size", "changed", "read", "stored")
    sizes = {disk["vdi"]: disk["size"] for vm in stage.pool["vms"] for disk in vm["disks"]}
    for title, backup in (("first", told.full), ("second", told.incremental)):
        for disk in backup.result["disks"]:
            vdi = disk["vdi"]
            numbers = [size(disk[key]) for key in ("changed_bytes", "read_bytes", "stored_bytes")]
            table.add_row(title, disk["vm"], names.get(vdi) or vdi, disk["mode"], size(sizes[vdi]), *numbers)
            title = ""
    console.print()
    console.print(str(table), markup=False)


def _show_speed(console: Console, told: Told) -> None:
    console.print()
    for title, backup in (("Full backup", told.full), ("Incremental", told.incremental)):
        read, stored = _sum(backup, "read_bytes"), _sum(backup, "stored_bytes")
        streaming = max([disk["seconds"] or 0 for disk in backup.result["disks"]], default=0)
        console.print(
            f"{title:12} {size(read)} read, {size(stored)} stored, {duration(backup.seconds)} from command to"
            f" restore point; {size(read / max(streaming, 1e-3))}/s while {WORKERS} workers of {STREAMS}"
            " streams read"
        )


def _show_restores(console: Console, told: Told) -> None:
    points = len({one.point.id for one in told.comparisons})
    same = sum(one.differs_at is None for one in told.comparisons)
    total = sum(one.disk.virtual_size for one in told.comparisons)
    seconds = sum(one.seconds for one in told.comparisons)
    console.print(
        f"Restored     {len(told.comparisons)} disks of {points} points, {size(total)}, at"
        f" {size(total / max(seconds, 1e-6))}/s; {same} are equal byte for byte to what the pool held"
    )


def _show_pool(console: Console, told: Told, stage: Stage) -> None:
    peaks: Mapping[str, int] = told.log["peak"]
    hosts = ", ".join(f"{host['name']} {peaks.get(host['uuid'], 0)} of {CAP}" for host in stage.pool["hosts"])
    console.print(f"Connections  at most at a time, as the hosts counted them: {hosts}")
    left = told.leftovers
    console.print(
        f"Left behind  {len(left['vm_snapshots'])} VM snapshots, {len(left['plugged_vbds'])} plugged disks,"
        f" {len(left['vdi_snapshots'])} disk snapshots (one a disk, without data: the next backup's base)"
    )


def _sum(backup: Backup, key: str) -> int:
    return sum(disk[key] or 0 for disk in backup.result["disks"])
