"""Waiting for a run outlives a restart of Redis; for a run that the ledger has forgotten nobody waits."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import redis

from scheduler.runs import submit
from scheduler.runs.submit import RunLost, wait_for_run
from tests.run_records import run_result
from workers.fleet import Ledger, LedgerUnreachable, RunProgress, UnknownToLedger

RESULT = run_result()


class LedgerThatIsAway:
    """A real ledger behind a Redis that is not there for the first calls; a real one cannot be timed so."""

    def __init__(self, ledger: Ledger, calls: int) -> None:
        self._ledger = ledger
        self._calls = calls
        self.progress = ledger.progress
        self.run_state = ledger.run_state

    def run_result(self, run: str) -> bytes | None:
        self._calls -= 1
        if self._calls >= 0:
            raise LedgerUnreachable("Redis does not answer")
        return self._ledger.run_result(run)


class LedgerOfALargeRun:
    """A real ledger whose progress takes two seconds to read, on a clock of its own; the run ends at 60 s."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self.run_state = ledger.run_state
        self.run_result = ledger.run_result
        self.now = 0.0
        self.read = 0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        if self.now >= 60:
            self._ledger.end_run("run", RESULT.write())

    def progress(self, run: str) -> RunProgress:
        self.now += 2
        self.read += 1
        return self._ledger.progress(run)


@pytest.fixture
def ledger(redis_url: str) -> Iterator[Ledger]:
    ledger = Ledger.from_url(redis_url)
    yield ledger
    ledger.close()


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(submit, "_POLL", 0.01)


def test_a_restart_of_redis_is_waited_out(ledger: Ledger) -> None:
    ledger.create_run("run", b"")
    ledger.end_run("run", RESULT.write())
    away = LedgerThatIsAway(ledger, 5)
    assert wait_for_run(away, "run") == RESULT  # type: ignore[arg-type]


def test_a_redis_that_stays_away_is_said(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(submit, "_PATIENCE", 0.05)
    with pytest.raises(LedgerUnreachable):
        wait_for_run(LedgerThatIsAway(ledger, 10**9), "run")  # type: ignore[arg-type]


def test_a_run_that_the_ledger_does_not_know_is_not_waited_for(ledger: Ledger) -> None:
    with pytest.raises(UnknownToLedger):
        wait_for_run(ledger, "20261122T010203Z-000000")


def test_a_run_that_redis_forgot_is_waited_for_until_it_is_resumed(
    ledger: Ledger, redis_client: redis.Redis
) -> None:
    ledger.create_run("run", b"")
    seen = []

    def forget_and_resume(progress: object) -> None:
        seen.append(progress)
        if len(seen) == 1:
            redis_client.flushall()
            resumer.start()

    def resume() -> None:
        ledger.create_run("run", b"")
        ledger.end_run("run", RESULT.write())

    resumer = threading.Timer(0.2, resume)
    assert wait_for_run(ledger, "run", on_progress=forget_and_resume) == RESULT
    resumer.join()
    assert len(seen) in (1, 2), "the second, if it looked between the run's return and its end"


def test_a_run_that_nobody_resumes_is_said_to_be_lost(
    ledger: Ledger, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(submit, "_PATIENCE", 0.05)
    ledger.create_run("run", b"")
    with pytest.raises(RunLost, match="lost before anything of it was recorded, then start it again"):
        wait_for_run(ledger, "run", on_progress=lambda _: redis_client.flushall())


@pytest.mark.parametrize(("shown", "times"), [(True, 3), (False, 0)])
def test_the_progress_of_a_large_run_is_read_a_tenth_of_the_time_and_only_to_be_shown(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch, shown: bool, times: int
) -> None:
    ledger.create_run("run", b"")
    large = LedgerOfALargeRun(ledger)
    monkeypatch.setattr(submit, "time", large)
    seen: list[object] = []
    result = wait_for_run(large, "run", on_progress=seen.append if shown else None)  # type: ignore[arg-type]
    assert result == RESULT
    assert large.read == len(seen) == times
