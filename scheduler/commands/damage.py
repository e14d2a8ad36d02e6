"""What a listing passed over because it cannot be read: shown, and the command ends with 1."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.console import Console

from workers.errors import CbtfleetError
from workers.repository import DamagedObject


def damage_document(damaged: Sequence[CbtfleetError]) -> Mapping[str, object]:
    """The member `damaged` of a JSON answer, as `verify` has it; none when all could be read."""
    if not damaged:
        return {}
    return {"damaged": [_row(error) for error in _each_once(damaged)]}


def show_damage(console: Console, damaged: Sequence[CbtfleetError]) -> None:
    if damaged:
        console.print("What cannot be read, and was passed over:")
    for error in _each_once(damaged):
        console.print(f"  {error}", markup=False)


def _each_once(damaged: Sequence[CbtfleetError]) -> list[CbtfleetError]:
    return list({str(error): error for error in damaged}.values())


def _row(error: CbtfleetError) -> Mapping[str, object]:
    if isinstance(error, DamagedObject):
        return {"object": error.object, "block": error.block, "why": error.why}
    return {"object": None, "block": None, "why": str(error)}
