"""`cbtfleet status`: how far a run is."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from scheduler.commands.backup import WaitEnded
from scheduler.commands.invocation import ConfigOption, Invocation, JsonOption, tell
from scheduler.commands.results import show_result
from scheduler.commands.runs import NoSuchRun, find_run, one_of
from scheduler.connections import open_ledger, open_repository
from scheduler.runs.facts import result_in_ledger, result_of
from scheduler.runs.submit import wait_for_run
from scheduler.runs.values import RunResult
from scheduler.terminal.progress_view import ProgressView, Totals, disk_rows, rate_so_far, summary_line
from scheduler.terminal.waiting import WaitingHints
from workers.errors import CbtfleetError
from workers.fleet import DiskProgress, Ledger, RunProgress
from workers.records import RecordUnreadable
from workers.settings import Settings


def status(
    context: typer.Context,
    run: Annotated[
        str | None, typer.Argument(metavar="[RUN]", help="A run's id or part of it; default: the newest.")
    ] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Follow it until it has ended.")] = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show a run's progress: its disks, rate and time left."""
    invocation = Invocation.of(context, config, as_json)
    settings = invocation.settings()
    with open_ledger(settings) as ledger:
        try:
            found = find_run(ledger, run)
        except NoSuchRun:
            kept = _kept(settings, run)
            if kept is None:
                raise
            _answer_kept(invocation, kept)
            return
        if watch:
            _follow(ledger, found)
        progress, result = ledger.progress(found), result_in_ledger(ledger, found)
    invocation.answer(
        {
            "run": found,
            "state": progress.state,
            "cancelled": progress.cancelled,
            "disks": [_describe(disk) for disk in progress.disks],
            "result": None if result is None else result.members(),
        },
        lambda console: _show(console, found, progress, result),
    )


def _kept(settings: Settings, run: str | None) -> RunResult | None:
    """The result of a run that the ledger does not know any more."""
    try:
        with open_repository(settings, tell) as repository:
            found = None if run is None else one_of(sorted(repository.run_names()), run)
            return None if found is None else result_of(repository, found)
    except (NoSuchRun, RecordUnreadable):
        raise
    except CbtfleetError:  # here is no key to the repository, say: then there is only the ledger
        return None


def _answer_kept(invocation: Invocation, result: RunResult) -> None:
    invocation.answer(
        {
            "run": result.run,
            "state": "ended",
            "cancelled": result.status == "cancelled",
            "disks": [],
            "result": result.members(),
        },
        lambda console: show_result(console, result),
    )


def _follow(ledger: Ledger, run: str) -> None:
    try:
        hints = WaitingHints(ledger)
        with ProgressView(run) as view:
            wait_for_run(ledger, run, on_progress=lambda seen: view.update(seen, hints(seen)))
    except KeyboardInterrupt as error:
        raise WaitEnded(
            f"not watching any longer; the run goes on: cbtfleet cancel {run} stops it"
        ) from error


def _describe(disk: DiskProgress) -> Mapping[str, object]:
    facts = disk.facts
    return {
        "vdi": disk.disk,
        "vm_uuid": disk.vm,
        "name": None if facts is None else facts.name,
        "mode": None if facts is None else facts.mode,
        "state": disk.state,
        "batches": disk.batches,
        "done": disk.done,
        "changed_bytes": None if facts is None else facts.changed_bytes,
        "read_bytes": disk.read_bytes,
        "stored_bytes": disk.stored_bytes,
        "error": disk.error,
    }


def _show(console: Console, run: str, progress: RunProgress, result: RunResult | None) -> None:
    if result is not None:
        show_result(console, result)
        return
    rate = rate_so_far(progress.disks, time.time())
    console.print(Text(summary_line(run, progress, Totals.of(progress.disks), rate)))
    console.print(disk_rows(progress))
