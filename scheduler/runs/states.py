"""The states of all runs that the ledger knows."""

from __future__ import annotations

from workers.fleet import Ledger, UnknownToLedger


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
