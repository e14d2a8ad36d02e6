"""`cbtfleet points`: the restore points."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from typing import Annotated

import typer
from rich.console import Console

from scheduler.commands.invocation import ConfigOption, Invocation, JsonOption, tell
from scheduler.connections import open_repository
from scheduler.terminal.tables import TextTable, size
from workers.errors import CbtfleetError
from workers.repository import Point, Repository


class NothingToList(CbtfleetError):
    """The wanted VM has no restore point."""


def points(
    context: typer.Context,
    vm: Annotated[str | None, typer.Option("--vm", metavar="NAME_OR_UUID", help="Only this VM's.")] = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the restore points, oldest first."""
    invocation = Invocation.of(context, config, as_json)
    with open_repository(invocation.settings(), tell) as repository:
        found = points_of(repository, vm)
    invocation.answer({"points": [describe(point) for point in found]}, lambda console: _show(console, found))


def points_of(repository: Repository, vm: str | None) -> list[Point]:
    """All restore points, or those of the VM with this uuid or name, ascending by time.

    Two VMs may have had one name: all of theirs are listed, each with its uuid. Raises NothingToList.
    """
    if vm is None:
        return list(repository.points())
    if _is_uuid(vm):
        found = list(repository.points(vm.lower()))
    else:
        found = [point for point in repository.points() if point.vm == vm]
    if not found:
        raise NothingToList(f'no restore point of a VM "{vm}"; "cbtfleet points" lists what there is')
    return found


def describe(point: Point) -> Mapping[str, object]:
    return {
        "id": point.id,
        "vm": point.vm,
        "vm_uuid": point.vm_uuid,
        "time": point.time,
        "disks": [
            {"vdi": disk.vdi, "virtual_size": disk.virtual_size, "sha256": None} for disk in point.disks
        ],
        "run": point.run,
    }


def _is_uuid(text: str) -> bool:
    try:
        return str(uuid.UUID(text)) == text.lower()
    except ValueError:
        return False


def _show(console: Console, found: Sequence[Point]) -> None:
    if not found:
        console.print("No restore points yet.")
        return
    table = TextTable("point", "time", "VM", "VM uuid", "disk", "size", "mode", "stored", "metadata")
    for point in found:
        heads = [point.id, point.time, point.vm, point.vm_uuid]
        kept = "no" if point.metadata is None else size(point.metadata.size)
        for disk in point.disks:
            table.add_row(*heads, disk.vdi, size(disk.virtual_size), disk.mode, size(disk.stored_bytes), kept)
            heads, kept = ["", "", "", ""], ""
        if not point.disks:
            table.add_row(*heads, "no disk", "", "", "", kept)
    console.print(str(table), markup=False)
