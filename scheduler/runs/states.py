"""The states of all runs that the ledger knows."""

from __future__ import annotations

from workers.fleet import Ledger, UnknownToLedger
from workers.repository import Repository


def run_states(ledger: Ledger) -> dict[str, str]:
    """By name, oldest first. A run that is forgotten while we ask is left out."""
    states: dict[str, str] = {}
    for run in ledger.runs():
        try:
            states[run] = ledger.run_state(run)
        except UnknownToLedger:
            continue
    return states


def a_run_goes_on(ledger: Ledger) -> bool:
    return any(state != "ended" for state in run_states(ledger).values())


def is_going(ledger: Ledger, repository: Repository, run: str) -> bool:
    """Whether a run may still need what it made. Raises when the ledger or the store does not answer."""
    try:
        return ledger.run_state(run) != "ended"
    except UnknownToLedger:  # it ended long ago, or was lost with Redis and is resumed, or has another Redis
        return repository.run_is_open(run)
