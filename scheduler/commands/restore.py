"""`cbtfleet restore`: one disk of one restore point into a sparse file, or the VM's metadata into a file."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from scheduler.commands.invocation import ConfigOption, Invocation, JsonOption, tell
from scheduler.connections import open_for_reading
from scheduler.terminal.byte_bar import byte_bar
from scheduler.terminal.tables import duration, size
from workers.errors import ConfigurationError
from workers.repository import DiskPoint, Point, Repository, restore_disk, write_file

THREADS = 8
"""Objects fetched at a time: hides the store's latency, and two cores decrypt no faster with more."""


def restore(
    context: typer.Context,
    point: Annotated[
        str, typer.Argument(metavar="POINT", help="A restore point's id, or the beginning of one.")
    ],
    to: Annotated[Path, typer.Option("--to", metavar="FILE", help="The file to write, sparse.")],
    vdi: Annotated[str | None, typer.Option("--vdi", metavar="UUID", help="Which disk of the point.")] = None,
    metadata: Annotated[
        bool,
        typer.Option("--metadata", help="The VM's metadata (an XVA for import_metadata) instead of a disk."),
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace FILE when it exists.")] = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Restore a disk into a file. Needs the store and the private key: no Redis, no pool."""
    invocation = Invocation.of(context, config, as_json)
    with open_for_reading(invocation.settings(), tell) as (store, keys, repository):
        found = repository.find_point(point)
        if metadata:
            _restore_metadata(invocation, repository, found, vdi, to, force=force)
            return
        disk = pick_disk(found, vdi)
        with byte_bar("restoring", None if as_json else disk.virtual_size) as advance:
            done = restore_disk(store, keys, disk, to, force=force, threads=THREADS, progress=advance)
    invocation.answer(
        {
            "point": found.id,
            "vdi": disk.vdi,
            "file": str(to),
            "bytes": done.bytes,
            "seconds": round(done.seconds, 3),
        },
        lambda console: console.print(
            f"Restored {disk.vdi} of {found.vm} as of {found.time} to {to}:"
            f" {size(done.bytes)} in {duration(done.seconds)}, every block checked.",
            markup=False,
        ),
    )


def _restore_metadata(
    invocation: Invocation, repository: Repository, point: Point, vdi: str | None, to: Path, *, force: bool
) -> None:
    if vdi is not None:
        raise ConfigurationError("--metadata is of the whole VM: leave --vdi out")
    began = time.monotonic()
    data = repository.vm_metadata(point)
    write_file(to, data, force=force)
    seconds = round(time.monotonic() - began, 3)
    invocation.answer(
        {"point": point.id, "vdi": None, "file": str(to), "bytes": len(data), "seconds": seconds},
        lambda console: console.print(
            f"Wrote the metadata of {point.vm} as of {point.time} to {to}: {size(len(data))}.", markup=False
        ),
    )


def pick_disk(point: Point, vdi: str | None) -> DiskPoint:
    """The disk with this uuid (or the beginning of it), or the only one. Raises ConfigurationError."""
    there = ", ".join(
        f"{disk.vdi} ({disk.name or 'no name'}, {size(disk.virtual_size)})" for disk in point.disks
    )
    if vdi is None:
        if len(point.disks) == 1:
            return point.disks[0]
        raise ConfigurationError(
            f"point {point.id} of {point.vm} has {len(point.disks)} disks, say which with --vdi: {there}"
        )
    found = [disk for disk in point.disks if disk.vdi.startswith(vdi.lower())] if vdi else []
    if len(found) != 1:
        raise ConfigurationError(f"--vdi {vdi}: point {point.id} of {point.vm} has {there or 'no disk'}")
    return found[0]
