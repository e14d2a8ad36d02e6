"""`cbtfleet cleanup`: what of ours is left on the pools by runs that have ended, and removing it."""

from __future__ import annotations

from contextlib import closing
from dataclasses import asdict, dataclass
from typing import Annotated

import typer
from rich.console import Console

from scheduler.commands.invocation import FAILED, ConfigOption, Invocation, JsonOption, end, note
from scheduler.connections import open_ledger, open_repository
from scheduler.context import ControlContext
from scheduler.pool_objects.destruction import GRACE
from scheduler.pool_objects.orphans import find_orphans
from scheduler.pool_objects.removing import Removed, remove_orphans
from scheduler.terminal.tables import TextTable
from workers.errors import CbtfleetError, ConfigurationError
from workers.settings import Settings


@dataclass(frozen=True)
class Row:
    """Something that is left on a pool; `stays`: why it is still there."""

    pool: str
    kind: str
    uuid: str
    name: str
    run: str
    why: str
    stays: str | None


def cleanup(
    context: typer.Context,
    pool: Annotated[str | None, typer.Option("--pool", metavar="NAME", help="Only this pool.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would be removed.")] = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Remove what ended runs left on the pools: snapshots, their data, disks plugged in for reading.

    Only what carries this repository's ownership tag, and never the base of a disk's next backup. The
    scheduler does the same by itself.
    """
    invocation = Invocation.of(context, config, as_json)
    settings = invocation.settings()
    if pool is not None:
        settings.pool(pool)
    elif not settings.pools:
        raise ConfigurationError("the configuration has no pool")
    rows, silent = _clean(settings, [pool] if pool is not None else sorted(settings.pools), dry_run)
    for line in silent:
        note(f"cbtfleet: {line}")
    invocation.answer(
        {"dry_run": dry_run, "leftovers": [asdict(row) for row in rows], "errors": silent},
        lambda console: _show(console, rows, dry_run),
    )
    if silent or (not dry_run and any(row.stays for row in rows)):
        end(FAILED)


def _clean(settings: Settings, pools: list[str], dry_run: bool) -> tuple[list[Row], list[str]]:
    """A row for each orphan, and a line for each pool that could not be looked at."""
    rows: list[Row] = []
    silent: list[str] = []
    with open_ledger(settings) as ledger, open_repository(settings) as repository:
        context = ControlContext(settings, ledger, repository, "cleanup")
        with closing(context.sessions):
            for pool in pools:
                try:
                    with context.sessions.borrow(pool) as session:
                        found = find_orphans(session, context, pool)
                        if dry_run:
                            done = [Removed(each, each.kept) for each in found]
                        else:
                            done = remove_orphans(session, context, found, patience=GRACE)
                except CbtfleetError as error:
                    silent.append(str(error))
                    continue
                rows += [_row(pool, each) for each in done]
    return rows, silent


def _row(pool: str, removed: Removed) -> Row:
    each = removed.orphan
    return Row(pool, each.kind, each.uuid, each.name, each.run, each.why, removed.error)


def _show(console: Console, rows: list[Row], dry_run: bool) -> None:
    if not rows:
        console.print("Nothing is left on the pools by runs that have ended.")
        return
    fate = "would be removed" if dry_run else "removed"
    table = TextTable("pool", "what", "uuid", "name", "why")
    for row in rows:
        said = f"stays: {row.stays}" if row.stays else f"{fate}: {row.why}"
        table.add_row(row.pool, row.kind, row.uuid, row.name, said)
    console.print(str(table), markup=False)
    stay = sum(row.stays is not None for row in rows)
    console.print(f"{len(rows) - stay} {fate}, {stay} {'would stay' if dry_run else 'stay'}.")
