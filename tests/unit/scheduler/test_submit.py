"""Waiting for a run outlives a restart of Redis; for a run that the ledger has forgotten nobody waits."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from scheduler import submit
from scheduler.submit import wait_for_run
from workers.fleet import Ledger, LedgerUnreachable, UnknownToLedger


class LedgerThatIsAway:
    """A real ledger behind a Redis that is not there for the first calls; a real one cannot be timed so."""

    def __init__(self, ledger: Ledger, calls: int) -> None:
        self._ledger = ledger
        self._calls = calls
        self.progress = ledger.progress

    def run_result(self, run: str) -> dict[str, Any] | None:
        self._calls -= 1
        if self._calls >= 0:
            raise LedgerUnreachable("Redis does not answer")
        return self._ledger.run_result(run)


@pytest.fixture
def ledger(redis_url: str) -> Iterator[Ledger]:
    ledger = Ledger.from_url(redis_url)
    yield ledger
    ledger.close()


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(submit, "_POLL", 0.01)


def test_a_restart_of_redis_is_waited_out(ledger: Ledger) -> None:
    ledger.create_run("run", {})
    ledger.end_run("run", {"status": "succeeded"})
    away = LedgerThatIsAway(ledger, 5)
    assert wait_for_run(away, "run") == {"status": "succeeded"}  # type: ignore[arg-type]


def test_a_redis_that_stays_away_is_said(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(submit, "_PATIENCE", 0.05)
    with pytest.raises(LedgerUnreachable):
        wait_for_run(LedgerThatIsAway(ledger, 10**9), "run")  # type: ignore[arg-type]


def test_a_run_that_the_ledger_does_not_know_is_not_waited_for(ledger: Ledger) -> None:
    with pytest.raises(UnknownToLedger):
        wait_for_run(ledger, "20261122T010203Z-000000")
