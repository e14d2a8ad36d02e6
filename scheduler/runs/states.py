"""Which runs go on."""

from __future__ import annotations

from workers.fleet import Ledger


def a_run_goes_on(ledger: Ledger) -> bool:
    return any(state != "ended" for state in ledger.run_states().values())
