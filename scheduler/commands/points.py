"""`cbtfleet points`: the restore points."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated

import typer
from rich.console import Console

from scheduler.commands.damage import damage_document, show_damage
from scheduler.commands.invocation import FAILED, ConfigOption, Invocation, JsonOption, end, tell
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
    damaged: list[CbtfleetError] = []
    with open_repository(invocation.settings(), tell) as repository:
        found = points_of(repository, vm, damaged.append)
    invocation.answer(
        {"points": [describe(point) for point in found], **damage_document(damaged)},
        lambda console: _show(console, found, damaged),
    )
    if damaged:
        end(FAILED)


def points_of(
    repository: Repository, vm: str | None, on_damage: Callable[[CbtfleetError], None]
) -> list[Point]:
    """All restore points, or those of the VM with this uuid or name, in the order of their runs.

    Two VMs may have had one name: all of theirs are listed, each with its uuid. What cannot be read is told
    to `on_damage`. Raises NothingToList.
    """
    if vm is None:
        return list(repository.points(on_damage=on_damage))
    if _is_uuid(vm):
        found = list(repository.points(vm.lower(), on_damage=on_damage))
    else:
        found = [point for point in repository.points(on_damage=on_damage) if point.vm == vm]
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


def _show(console: Console, found: Sequence[Point], damaged: Sequence[CbtfleetError]) -> None:
    if found:
        console.print(str(_table(found)), markup=False)
    else:
        console.print("No restore points yet." if not damaged else "No restore point can be read.")
    show_damage(console, damaged)


def _table(found: Sequence[Point]) -> TextTable:
    table = TextTable("point", "time", "VM", "VM uuid", "disk", "size", "mode", "stored", "metadata")
    for point in found:
        heads = [point.id, point.time, point.vm, point.vm_uuid]
        kept = "no" if point.metadata is None else size(point.metadata.size)
        for disk in point.disks:
            table.add_row(*heads, disk.vdi, size(disk.virtual_size), disk.mode, size(disk.stored_bytes), kept)
            heads, kept = ["", "", "", ""], ""
        if not point.disks:
            table.add_row(*heads, "no disk", "", "", "", kept)
    return table
