"""`cbtfleet backup`: submits a run, and waits for it when asked to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated

import typer

from scheduler.commands.invocation import ConfigOption, Invocation, JsonOption, end, note
from scheduler.commands.results import exit_code, outcome, show_result
from scheduler.connections import open_ledger, open_repository
from scheduler.policies.requests import RunRequest, request_for_vms, request_from_policy
from scheduler.runs.facts import Sign
from scheduler.runs.submit import submit_run, wait_for_run
from scheduler.runs.values import RunResult
from scheduler.terminal.progress_view import ProgressView
from scheduler.terminal.waiting import WaitingHints
from workers.errors import CancelledError, CbtfleetError, ConfigurationError
from workers.fleet import Ledger
from workers.settings import Settings


def backup(
    context: typer.Context,
    policy: Annotated[
        str | None, typer.Option("--policy", metavar="NAME", help="Back up what it selects.")
    ] = None,
    pool: Annotated[
        str | None, typer.Option("--pool", metavar="NAME", help="The pool of the --vm's.")
    ] = None,
    vm: Annotated[
        list[str] | None,
        typer.Option("--vm", metavar="NAME_OR_UUID", help="A VM to back up; may be repeated."),
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Wait until the run has ended, and show it.")] = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Submit a run: the VMs of a policy, or those named."""
    invocation = Invocation.of(context, config, as_json)
    settings = invocation.settings()
    request = choose(settings, policy, pool, vm or [])
    with open_ledger(settings) as ledger:
        run = submit_run(ledger, request, _signer(settings, request))
        if not wait:
            invocation.answer(
                {"run": run, "status": "submitted"},
                lambda console: console.print(
                    f"Submitted run {run}. Follow it: cbtfleet status {run} --watch"
                ),
            )
            return
        result = _wait(ledger, run)
    if result.error:
        note(f"cbtfleet: {result.error}")
    invocation.answer(outcome(result), lambda console: show_result(console, replace(result, error=None)))
    end(exit_code(result.status))


class WaitEnded(CancelledError):
    """The person who waited for a run does so no longer; the run itself goes on."""


def choose(settings: Settings, policy: str | None, pool: str | None, vms: Sequence[str]) -> RunRequest:
    """What is meant by these options; the only policy or the only pool need not be named.

    Raises ConfigurationError.
    """
    if vms:
        if policy is not None:
            raise ConfigurationError("give either --policy or --vm, not both")
        return request_for_vms(settings, pool or _only(settings.pools, "pool"), vms)
    if pool is not None:
        raise ConfigurationError("--pool needs at least one --vm NAME_OR_UUID; or give --policy NAME")
    return request_from_policy(settings, policy or _only(settings.policies, "policy"))


def _only(named: Mapping[str, object], what: str) -> str:
    if len(named) == 1:
        return next(iter(named))
    if not named and what == "policy":
        raise ConfigurationError(
            "nothing to back up: name VMs with --vm, or write a policy into the configuration"
        )
    known = ", ".join(sorted(named)) or "none"
    raise ConfigurationError(f"say which {what} with --{what}; the configuration has: {known}")


def _wait(ledger: Ledger, run: str) -> RunResult:
    note(f"run {run} submitted")
    try:
        hints = WaitingHints(ledger)
        with ProgressView(run) as view:
            return wait_for_run(ledger, run, on_progress=lambda seen: view.update(seen, hints(seen)))
    except KeyboardInterrupt as error:
        raise WaitEnded(
            f"not waiting any longer; the run goes on: cbtfleet status {run}, cbtfleet cancel {run}"
        ) from error


def _signer(settings: Settings, request: RunRequest) -> Sign | None:
    """None: this machine cannot sign, so the run counts as made by hand."""
    if request.policy is None or settings.repository.metadata_key_file is None:
        return None
    try:
        with open_repository(settings, lambda error: None) as repository:
            return repository.sign_order
    except CbtfleetError as error:
        note(f"cbtfleet: policy {request.policy} will not count this run, which is not signed: {error}")
        return None
