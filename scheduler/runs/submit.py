"""Submitting a run and waiting for its result."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from datetime import UTC, datetime

from scheduler.policies.requests import RunRequest
from scheduler.runs.facts import Sign, create_run, result_in_ledger
from scheduler.runs.values import RunFacts, RunResult
from workers.errors import CbtfleetError
from workers.fleet import Ledger, LedgerUnreachable, RunProgress, UnknownToLedger

_POLL = 0.25
"""Seconds between two looks at the ledger: quick for a person, nothing for Redis."""

_PAUSES = 9.0
"""How long the progress is not read again, in the time that reading it took: of a run of many thousand disks
that is seconds, and as much work for Redis as for us."""

_PATIENCE = 120.0
"""Seconds without the ledger, or without the run in it, before a wait is given up: the run outlives a restart
of Redis and the loss of all that is in it, and so should whoever waits for it."""


class RunLost(CbtfleetError):
    """Redis has forgotten the run, and no scheduler resumed it."""


def new_run_id(now: datetime) -> str:
    """`20261122T010203Z-3fa9c1`: sorts by time, and two runs of one second differ."""
    return f"{now.astimezone(UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}"


def submit_run(ledger: Ledger, request: RunRequest, sign: Sign | None = None) -> str:
    """Puts a run into the ledger and returns its id; the scheduler takes it from there."""
    now = datetime.now(UTC)
    run = new_run_id(now)
    facts = RunFacts(request, started=f"{now:%Y-%m-%dT%H:%M:%SZ}")
    while not create_run(ledger, run, facts, sign):
        run = new_run_id(now)
    return run


def wait_for_run(
    ledger: Ledger, run: str, *, on_progress: Callable[[RunProgress], None] | None = None
) -> RunResult:
    """Waits until the run has ended and returns its result.

    A Redis that restarts is waited for, and so is a scheduler that resumes a run that Redis forgot. Raises
    LedgerUnreachable when Redis stays away, RunLost when nobody resumes the run, and UnknownToLedger at once
    for a run that was never there.
    """
    heard = time.monotonic()
    look = heard
    seen = False
    while True:
        try:
            result = result_in_ledger(ledger, run)
            if result is not None:
                return result
            ledger.run_state(run)  # raises when the ledger does not know it
            seen = True
            heard = time.monotonic()
            if on_progress is not None and heard >= look:
                on_progress(ledger.progress(run))
                look = time.monotonic() + _PAUSES * (time.monotonic() - heard)
        except LedgerUnreachable:
            if time.monotonic() - heard > _PATIENCE:
                raise
        except UnknownToLedger as error:
            if not seen:
                raise
            if time.monotonic() - heard > _PATIENCE:
                raise RunLost(
                    f"Redis was emptied and run {run} was not resumed: it was lost before anything of it was"
                    ' recorded, then start it again; or no "cbtfleet scheduler" is running'
                ) from error
        time.sleep(_POLL)
