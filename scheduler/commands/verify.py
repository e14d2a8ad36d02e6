"""`cbtfleet verify`: is every stored block still what was backed up?"""

from __future__ import annotations

import secrets
from typing import Annotated

import typer
from rich.console import Console

from scheduler.commands.byte_bar import byte_bar
from scheduler.commands.connections import open_for_reading
from scheduler.commands.invocation import FAILED, ConfigOption, Invocation, JsonOption, end
from scheduler.commands.restore import THREADS
from scheduler.commands.tables import size
from workers.repository.verify import Verified, verify_points


def verify(
    context: typer.Context,
    points: Annotated[
        list[str] | None, typer.Argument(metavar="[POINT]...", help="Restore points; default: all.")
    ] = None,
    sample: Annotated[
        int | None,
        typer.Option("--sample", min=1, metavar="N", help="Check N blocks chosen at random, not all."),
    ] = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Check every block (or a sample) of restore points, and name each damaged object and block."""
    invocation = Invocation.of(context, config, as_json)
    with open_for_reading(invocation.settings()) as (store, keys, repository):
        chosen = [repository.find_point(point) for point in points] if points else list(repository.points())
        with byte_bar("verifying", None if as_json else 0) as advance:
            found = verify_points(
                store,
                keys,
                chosen,
                sample=sample,
                seed=secrets.randbits(63),
                threads=THREADS,
                progress=advance,
            )
    invocation.answer(
        {
            "checked_frames": found.checked_frames,
            "checked_bytes": found.checked_bytes,
            "damaged": [{"object": bad.object, "block": bad.block, "why": bad.why} for bad in found.damaged],
        },
        lambda console: _show(console, len(chosen), found),
    )
    if found.damaged:
        end(FAILED)


def confidence(checked: int) -> str:
    """What a sample without damage says: the share of damaged blocks it would have found in 95 of 100 times.

    `checked` blocks chosen at random all miss a damaged share p with probability (1 - p) ** checked.
    """
    share = 1 - 0.05 ** (1 / checked)
    return f"damage to {share * 100:.2g} % of the blocks or more would have been found in 95 of 100 cases."


def _show(console: Console, points: int, found: Verified) -> None:
    checked = f"{found.checked_frames} stored blocks ({size(found.checked_bytes)}) of {points} restore points"
    if not found.damaged:
        console.print(f"Checked {checked}: no damage.")
        if 0 < found.checked_frames < found.frames:
            console.print(f"That is a sample of {found.frames}: {confidence(found.checked_frames)}")
        return
    console.print(f"Checked {checked}: {len(found.damaged)} damaged.")
    for bad in found.damaged:
        where = bad.object if bad.block is None else f"{bad.object} block {bad.block}"
        console.print(f"  {where}: {bad.why}", markup=False)
    console.print(
        "Points that do not use these blocks are unharmed. The next full backup of the disk replaces them."
    )
