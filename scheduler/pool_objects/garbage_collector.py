"""Looks for orphans on the pools, beside the runs: nobody waits for it.

    at the start        every pool
    a run begins, ends  its pool
    something stayed    that pool, after a minute, then more and more rarely, up to an hour

A look is three listings and, when all is as it should be, nothing else. Several schedulers may do the same at
the same time.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from scheduler.background_loop import BackgroundLoop
from scheduler.context import ControlContext
from scheduler.pool_objects.orphans import find_orphans
from scheduler.pool_objects.removing import Removed, remove_orphans
from scheduler.runs.facts import run_facts
from workers.fleet import UnknownToLedger
from workers.records import RecordUnreadable

log = logging.getLogger(__name__)

LOOK_AT_RUNS = 5.0
"""Seconds between two looks at the ledger's runs."""

FIRST_PAUSE, LONGEST_PAUSE = 60.0, 3600.0
"""Seconds until a pool where something stayed is looked at again."""


class GarbageCollector(BackgroundLoop):
    """What it cannot remove is one line, until that changes."""

    def __init__(self, context: ControlContext) -> None:
        super().__init__(
            "garbage-collector",
            "looking for orphans",
            pause=LOOK_AT_RUNS,
            back_off=(LOOK_AT_RUNS, FIRST_PAUSE),
        )
        self._context = context
        self._due = dict.fromkeys(context.settings.pools, 0.0)
        self._pauses: dict[str, float] = {}
        self._going: dict[str, str] = {}
        self._seen: set[str] | None = None
        self._said: dict[str, set[str]] = {}

    def round(self) -> None:
        """Looks at the pools whose turn it is."""
        self._watch_runs()
        for pool, when in list(self._due.items()):
            if when <= time.monotonic() and not self.stopping():
                with self.trying(f"looking for orphans on pool {pool}"):
                    self._look(pool)

    def _watch_runs(self) -> None:
        ledger = self._context.ledger
        states = ledger.run_states()
        for run, state in states.items():
            if state == "ended" or run in (self._seen or set()):
                continue
            try:
                pool = run_facts(ledger, run).request.pool
            except UnknownToLedger:
                continue
            except RecordUnreadable as error:  # its orphans are found when its pool is looked at next
                log.warning("%s", error)
                continue
            self._going[run] = pool
            self._due_now(pool)
        for run, pool in list(self._going.items()):
            if states.get(run, "ended") == "ended":
                del self._going[run]
                self._due_now(pool)
        self._seen = set(states)

    def _due_now(self, pool: str) -> None:
        if pool in self._due:
            self._due[pool] = 0.0
            self._pauses.pop(pool, None)

    def _look(self, pool: str) -> None:
        try:
            done = clean_pool(self._context, pool, self.stopping)
        except BaseException:
            self._later(pool)
            raise
        stayed = [each for each in done if each.error is not None]
        for each in done:
            if each.error is None:
                log.info("pool %s: %s removed: %s", pool, describe(each), each.orphan.why)
        lines = {f"{describe(each)} stays: {each.error}" for each in stayed}
        for line in sorted(lines - self._said.get(pool, set())):
            log.warning("pool %s: %s", pool, line)
        self._said[pool] = lines
        if stayed:
            self._later(pool)
        else:
            self._pauses.pop(pool, None)
            self._due[pool] = time.monotonic() + LONGEST_PAUSE

    def _later(self, pool: str) -> None:
        pause = self._pauses.get(pool, FIRST_PAUSE)
        self._pauses[pool] = min(pause * 2, LONGEST_PAUSE)
        self._due[pool] = time.monotonic() + pause


def clean_pool(context: ControlContext, pool: str, stop: Callable[[], bool]) -> list[Removed]:
    """One look, and what came of it. Raises CbtfleetError."""
    with context.sessions.borrow(pool) as session:
        found = find_orphans(session, context, pool)
        return remove_orphans(session, context, found, stop=stop)


def describe(removed: Removed) -> str:
    each = removed.orphan
    return f"{each.kind} {each.uuid} ({each.name})"
