"""What happens in the demo, and the checks that make it more than a show.

init -> full backup -> guests write -> incremental backup -> restore both points of every disk
     -> compare byte for byte with what the pool says each disk held -> what is left on the pool?
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from scheduler.connections import open_for_reading
from scheduler.demo.stage import CAP, Printed, Stage, start_fleet
from workers.extents import BLOCK_SIZE
from workers.repository import DiskPoint, Point, restore_disk
from workers.settings import load_settings

WRITES = (("random", 40), ("text", 80), ("zero", 24))
"""Kind and number of blocks that each guest writes to each of its disks."""

CLEAN_UP_PATIENCE = 10.0
"""Seconds until the hosts have let go of the last disks."""


@dataclass(frozen=True)
class Backup:
    result: Printed
    seconds: float


@dataclass(frozen=True)
class Comparison:
    """One restored disk of one point; `differs_at` None: equal to what the pool says it held."""

    point: Point
    disk: DiskPoint
    seconds: float
    differs_at: int | None


@dataclass(frozen=True)
class Told:
    """All that the summary needs."""

    full: Backup
    incremental: Backup
    written: Mapping[str, int]
    """VDI uuid -> blocks its guest wrote between the two backups."""
    comparisons: list[Comparison]
    log: Printed
    leftovers: Printed
    seconds: float

    def faults(self) -> list[str]:
        """What is not as it must be; empty when all is well."""
        found = [
            f"{one.disk.name or one.disk.vdi} of point {one.point.id} differs from byte {one.differs_at} on"
            for one in self.comparisons
            if one.differs_at is not None
        ]
        if not self.comparisons:
            found.append("nothing was compared")
        backed_up = len(self.incremental.result["disks"])
        if backed_up != len(self.written):
            found.append(f"{len(self.written)} disks written to, {backed_up} backed up")
        for disk in self.incremental.result["disks"]:
            wrote = self.written[disk["vdi"]] * BLOCK_SIZE
            if disk["mode"] != "incremental" or disk["read_bytes"] != wrote:
                found.append(f"disk {disk['vdi']}: {disk['read_bytes']} bytes read, its guest wrote {wrote}")
        for peak in self.log["peak"].values():
            if peak > CAP:
                found.append(f"{peak} connections to one host, {CAP} are allowed")
        for kind in ("vm_snapshots", "plugged_vbds"):
            if self.leftovers[kind]:
                found.append(f"{len(self.leftovers[kind])} {kind.replace('_', ' ')} left on the pool")
        return found


def tell(stage: Stage, say: Callable[[str], None]) -> Told:
    """Plays it. Raises CbtfleetError when something fails; what merely differs is in the result."""
    began = time.monotonic()
    say("Creating the repository: cbtfleet init")
    stage.cbtfleet("init")
    say("Starting a scheduler and two workers: cbtfleet scheduler, cbtfleet worker")
    start_fleet(stage)
    say("Full backup: cbtfleet backup --policy nightly --wait")
    full = _back_up(stage)
    say("The guests write to their disks")
    written = _guests_write(stage)
    say("Incremental backup: cbtfleet backup --policy nightly --wait")
    incremental = _back_up(stage)
    say("Restoring every disk of both points, and comparing with what the pool says it held")
    comparisons = list(_restore_all(stage))
    leftovers = _wait_for_clean_up(stage)
    return Told(
        full,
        incremental,
        written,
        comparisons,
        stage.control.get("/log"),
        leftovers,
        time.monotonic() - began,
    )


def _back_up(stage: Stage) -> Backup:
    began = time.monotonic()
    result = stage.cbtfleet("backup", "--policy", "nightly", "--wait")
    return Backup(result, time.monotonic() - began)


def _guests_write(stage: Stage) -> dict[str, int]:
    chosen = random.Random(20261122)
    written = {}
    for vm in stage.pool["vms"]:
        for disk in vm["disks"]:
            blocks: set[int] = set()
            for kind, count in WRITES:
                order = {"seed": chosen.randrange(1 << 32), "blocks": count, "kind": kind}
                blocks.update(stage.control.post("/write", {"vdi": disk["vdi"], "random": order})["blocks"])
            written[disk["vdi"]] = len(blocks)
    return written


def _restore_all(stage: Stage) -> Iterator[Comparison]:
    settings = load_settings(stage.settings_file)
    file = stage.folder / "restored.img"
    with _credentials(stage.environment), open_for_reading(settings) as (store, keys, repository):
        for point in repository.points():
            for disk in point.disks:
                done = restore_disk(store, keys, disk, file, force=True, threads=4, progress=None)
                yield Comparison(
                    point, disk, done.seconds, stage.control.first_difference(disk.snapshot, file)
                )
    Path(file).unlink(missing_ok=True)


@contextmanager
def _credentials(environment: Mapping[str, str]) -> Iterator[None]:
    """The usual AWS chain reads them from this process's environment."""
    names = [name for name in environment if name.startswith("AWS_")]
    before = {name: os.environ.get(name) for name in names}
    os.environ.update({name: environment[name] for name in names})
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _wait_for_clean_up(stage: Stage) -> Printed:
    deadline = time.monotonic() + CLEAN_UP_PATIENCE
    while True:
        found: Printed = stage.control.get("/leftovers")
        if (not found["plugged_vbds"] and not found["vm_snapshots"]) or time.monotonic() > deadline:
            return found
        time.sleep(0.2)
