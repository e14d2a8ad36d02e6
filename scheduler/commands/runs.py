"""`cbtfleet runs` and `cbtfleet cancel`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated

import typer
from rich.console import Console

from scheduler.commands.damage import damage_document
from scheduler.commands.invocation import FAILED, ConfigOption, Invocation, JsonOption, end, note, tell
from scheduler.commands.results import RunSummary, summary
from scheduler.connections import open_ledger, open_repository
from scheduler.runs.facts import results, run_facts
from scheduler.terminal.tables import TextTable, size
from workers.errors import CbtfleetError
from workers.fleet import Ledger, LedgerUnreachable
from workers.records import RecordUnreadable
from workers.settings import Settings

RunArgument = Annotated[
    str, typer.Argument(metavar="RUN", help="A run's id, or the end or beginning of one.")
]


class NoSuchRun(CbtfleetError):
    """No run of this id, or more than one that begins like it."""


def runs(context: typer.Context, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """List the runs, oldest first: those that ended, from the repository, and those going on."""
    invocation = Invocation.of(context, config, as_json)
    settings = invocation.settings()
    damaged: list[CbtfleetError] = []

    def pass_over(error: CbtfleetError) -> None:
        _not_listed(error)
        damaged.append(error)

    with open_repository(settings, tell) as repository:
        found = {result.run: summary(result) for result in results(repository, pass_over)}
    for going_on in _live(settings):
        found.setdefault(going_on.run, going_on)
    rows = list(found.values())
    invocation.answer(
        {"runs": [asdict(row) for row in rows], **damage_document(damaged)},
        lambda console: _show(console, rows),
    )
    if damaged:
        end(FAILED)


def cancel(
    context: typer.Context,
    run: RunArgument,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Stop a run: what it had not finished is given up, restore points that exist stay."""
    invocation = Invocation.of(context, config, as_json)
    with open_ledger(invocation.settings()) as ledger:
        found = find_run(ledger, run)
        if ledger.run_state(found) == "ended":
            raise NoSuchRun(f"run {found} has ended already")
        ledger.cancel(found)
    invocation.answer(
        {"run": found, "status": "cancelling"},
        lambda console: console.print(
            f"Run {found} is being cancelled; the VMs' snapshots are cleaned up first."
        ),
    )


def find_run(ledger: Ledger, wanted: str | None) -> str:
    """The run of this id, or the only one that begins or ends so; None: the newest. Raises NoSuchRun."""
    known = sorted(ledger.runs())
    if wanted is None:
        if not known:
            raise NoSuchRun(
                'no run is known; "cbtfleet backup" submits one, "cbtfleet runs" lists older ones'
            )
        return known[-1]
    found = one_of(known, wanted)
    if found is None:
        raise NoSuchRun(f'no run "{wanted}" in the ledger; "cbtfleet runs" lists them')
    return found


def one_of(known: Sequence[str], wanted: str) -> str | None:
    """The run of this id, or the only one that begins or ends so. Raises NoSuchRun when there are several."""
    found = [run for run in known if run == wanted] or [
        run for run in known if wanted and (run.startswith(wanted) or run.endswith(wanted))
    ]
    if len(found) > 1:
        raise NoSuchRun(f'"{wanted}" may be any of {", ".join(found)}; write more of it')
    return found[0] if found else None


def _live(settings: Settings) -> list[RunSummary]:
    """The runs in the ledger that have not ended; none when it cannot be asked."""
    try:
        with open_ledger(settings) as ledger:
            return [
                going_on
                for run, state in sorted(ledger.run_states().items())
                if state != "ended" and (going_on := _going_on(ledger, run)) is not None
            ]
    except LedgerUnreachable as error:
        note(f"cbtfleet: runs that go on are not listed: {error}")
        return []


def _not_listed(error: CbtfleetError) -> None:
    note(f"cbtfleet: a run is not listed: {error}")


def _going_on(ledger: Ledger, run: str) -> RunSummary | None:
    """None when its record cannot be read, which is said."""
    try:
        facts, progress = run_facts(ledger, run), ledger.progress(run)
    except RecordUnreadable as error:
        _not_listed(error)
        return None
    return RunSummary(
        run=run,
        status="cancelling" if progress.cancelled else progress.state,
        policy=facts.request.policy,
        pool=facts.request.pool,
        started=facts.started,
        ended=None,
        error=None,
        disks=len(progress.disks),
        failed_disks=sum(disk.state == "failed" for disk in progress.disks),
        read_bytes=sum(disk.read_bytes for disk in progress.disks),
        stored_bytes=sum(disk.stored_bytes for disk in progress.disks),
    )


def _show(console: Console, found: Sequence[RunSummary]) -> None:
    if not found:
        console.print("No runs yet.")
        return
    table = TextTable("run", "status", "policy", "pool", "ended", "disks", "failed", "read", "stored")
    for run in found:
        numbers = [str(run.disks), str(run.failed_disks), size(run.read_bytes), size(run.stored_bytes)]
        table.add_row(run.run, run.status, run.policy or "-", run.pool or "-", run.ended or "-", *numbers)
    console.print(str(table), markup=False)
    for run in found:
        if run.error:
            console.print(f"  {run.run}: {run.error}", markup=False)
