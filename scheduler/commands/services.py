"""`cbtfleet worker`, `scheduler` and `up`: what runs in the foreground until it is told to stop."""

from __future__ import annotations

import json
import os
from typing import Annotated

import typer

from scheduler.commands.invocation import ConfigOption, Invocation, JsonOption, end, note
from scheduler.single_machine.up import run_up, worker_command
from workers.interrupts import interrupts_are_ignored
from workers.logs import start_logging
from workers.service_start import start_without_passphrase

ConcurrencyOption = Annotated[
    int | None,
    typer.Option("--concurrency", min=1, metavar="N", help="Streams at most; default: one a core."),
]


def worker(
    context: typer.Context,
    concurrency: ConcurrencyOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Run one worker node: reads disks, seals and stores them."""
    invocation = Invocation.of(context, config, as_json)
    invocation.settings()  # a bad configuration is said here, in one line
    command = worker_command(invocation.settings_file, concurrency)
    _keep_stdout_for_json(invocation)
    # The node becomes this process: whoever started us signals it directly.
    os.execv(command[0], command)


def scheduler(context: typer.Context, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Run the control plane: plans, grants, restore points, clean-up. May run more than once."""
    from scheduler.service import run_scheduler  # Celery: a tenth of every other command's start

    start_without_passphrase()
    invocation = Invocation.of(context, config, as_json)
    start_logging()
    settings = invocation.settings()
    _keep_stdout_for_json(invocation)
    run_scheduler(settings)


def up(
    context: typer.Context,
    concurrency: ConcurrencyOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Run scheduler and worker on this machine, and a Redis when none is configured."""
    start_without_passphrase()
    invocation = Invocation.of(context, config, as_json)
    start_logging()

    stopped_by = "SIGTERM" if interrupts_are_ignored() else "Ctrl-C"

    def ready(processes: dict[str, object]) -> None:
        if invocation.as_json:
            print(json.dumps(processes), flush=True)
        else:
            parts = ", ".join(name for name in processes if not name.endswith("_url"))
            note(f"cbtfleet up: {parts} running; {stopped_by} stops them")

    end(run_up(invocation.settings(), invocation.settings_file, concurrency, ready))


def _keep_stdout_for_json(invocation: Invocation) -> None:
    """Celery greets on stdout; with --json that goes to stderr, as all logs do."""
    if invocation.as_json:
        os.dup2(2, 1)
