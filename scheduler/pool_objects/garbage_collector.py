"""Looks for orphans on the pools, beside the runs: nobody waits for it.

    at the start        every pool
    a run begins, ends  its pool
    something stayed    that pool, after a minute, then more and more rarely, up to an hour

A look is three listings and, when all is as it should be, nothing else. Several schedulers may do the same at
the same time.
"""

from __future__ import annotations

import logging
import threading
import time

from scheduler.context import ControlContext
from scheduler.pool_objects.orphans import find_orphans
from scheduler.pool_objects.removing import Removed, remove_orphans
from workers.errors import CbtfleetError
from workers.fleet import UnknownToLedger

log = logging.getLogger(__name__)

LOOK_AT_RUNS = 5.0
"""Seconds between two looks at the ledger's runs."""

FIRST_PAUSE, LONGEST_PAUSE = 60.0, 3600.0
"""Seconds until a pool where something stayed is looked at again."""

_FAREWELL = 15.0
"""Seconds that `stop` waits for what is being removed: the next look goes on."""


class GarbageCollector:
    """Nothing ends it but `stop`. What it cannot remove it says once, until that changes."""

    def __init__(self, context: ControlContext) -> None:
        self._context = context
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._work, name="garbage-collector", daemon=True)
        self._due = dict.fromkeys(context.settings.pools, 0.0)
        self._pauses: dict[str, float] = {}
        self._going: dict[str, str] = {}
        self._seen: set[str] | None = None
        self._said: dict[str, set[str]] = {}

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._end.set()
        if self._thread.is_alive():
            self._thread.join(_FAREWELL)

    def _work(self) -> None:
        said = False
        while not self._end.is_set():
            try:
                self.turn()
                said = False
            except CbtfleetError as error:
                if not said:
                    log.warning("orphans are not looked for: %s; trying again", error)
                said = True
            except Exception:
                log.exception("looking for orphans met something unexpected; going on")
            self._end.wait(LOOK_AT_RUNS)

    def turn(self) -> None:
        """Looks at the pools whose turn it is."""
        self._watch_runs()
        for pool, when in list(self._due.items()):
            if self._end.is_set():
                return
            if when <= time.monotonic():
                self._look(pool)

    def _watch_runs(self) -> None:
        ledger = self._context.ledger
        names = set(ledger.runs())
        for run in names - (self._seen or set()):
            try:
                pool = str(ledger.run_facts(run)["request"]["pool"])
                ended = ledger.run_state(run) == "ended"
            except UnknownToLedger:
                continue
            if not ended:
                self._going[run] = pool
                self._due_now(pool)
        for run, pool in list(self._going.items()):
            try:
                ended = ledger.run_state(run) == "ended"
            except UnknownToLedger:
                ended = True
            if ended:
                del self._going[run]
                self._due_now(pool)
        self._seen = names

    def _due_now(self, pool: str) -> None:
        if pool in self._due:
            self._due[pool] = 0.0
            self._pauses.pop(pool, None)

    def _look(self, pool: str) -> None:
        try:
            done = clean_pool(self._context, pool, self._end)
        except CbtfleetError as error:
            self._later(pool)
            log.warning("pool %s: orphans are not looked for now: %s", pool, error)
            return
        except Exception:
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


def clean_pool(context: ControlContext, pool: str, end: threading.Event) -> list[Removed]:
    """One look, and what came of it. Raises CbtfleetError."""
    with context.sessions.borrow(pool) as session:
        found = find_orphans(session, context, pool)
        return remove_orphans(session, context, found, stop=end.is_set)


def describe(removed: Removed) -> str:
    each = removed.orphan
    return f"{each.kind} {each.uuid} ({each.name})"
