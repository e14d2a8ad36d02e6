"""`cbtfleet resume`: a run that Redis has forgotten goes on."""

from __future__ import annotations

import typer

from scheduler.commands.invocation import ConfigOption, Invocation, JsonOption
from scheduler.commands.runs import NoSuchRun, RunArgument, one_of
from scheduler.connections import open_ledger, open_repository
from scheduler.runs.resuming import resume_run


def resume(
    context: typer.Context,
    run: RunArgument,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Put a run that Redis lost back to work: same snapshots, and only what was not stored yet is read."""
    invocation = Invocation.of(context, config, as_json)
    settings = invocation.settings()
    with open_repository(settings) as repository, open_ledger(settings) as ledger:
        found = one_of(sorted(repository.open_runs()), run)
        if found is None:
            raise NoSuchRun(f'no run "{run}" is open in the repository: it ended, or was not recorded')
        resumed = resume_run(ledger, repository, found)
    status = "resumed" if resumed else "running"
    said = "goes on" if resumed else "is known to Redis: nothing was lost, and it goes on by itself"
    invocation.answer(
        {"run": found, "status": status},
        lambda console: console.print(f"Run {found} {said}. Follow it: cbtfleet status {found} --watch"),
    )
