"""Why a run that somebody waits for does not move: what is missing, in one line."""

from __future__ import annotations

import time
from collections.abc import Callable

from scheduler.hosts.slot_report import is_closed, is_uncounted
from scheduler.runs.facts import run_facts
from workers.fleet import Ledger, RunProgress
from workers.records import RecordUnreadable

PLANNING_PATIENCE = 20.0
"""Seconds a run may be planned before we ask whether a scheduler is there at all."""

LOOK_EVERY = 3.0

HOSTS_PATIENCE = 5.0
"""Seconds a run may wait before we look at the hosts: each is counted when it is first seen."""


class WaitingHints:
    """Asks the ledger now and then; call it with every progress."""

    def __init__(self, ledger: Ledger, clock: Callable[[], float] = time.monotonic) -> None:
        self._ledger = ledger
        self._clock = clock
        self._began = clock()
        self._looked = float("-inf")
        self._hint: str | None = None

    def __call__(self, progress: RunProgress) -> str | None:
        now = self._clock()
        if now - self._looked >= LOOK_EVERY:
            self._looked = now
            self._hint = self._look(progress, now - self._began)
        return self._hint

    def _look(self, progress: RunProgress, waited: float) -> str | None:
        streaming = [disk for disk in progress.disks if disk.state == "streaming"]
        if streaming and not any(disk.streams for disk in streaming):
            left = self._ledger.barrier_left()
            if left > 0:
                return (
                    f"Redis was restarted or is new: for {left:.0f} s more no connection is opened,"
                    " as holders of old ones may still report"
                )
            if not self._ledger.nodes() and waited > LOOK_EVERY:
                return 'no worker is running: start "cbtfleet worker"'
            if waited > HOSTS_PATIENCE:
                return self._hosts_hint(progress.run)
        if not progress.disks and progress.state != "ended" and waited > PLANNING_PATIENCE:
            return 'still planning; is a "cbtfleet scheduler" running?'
        return None

    def _hosts_hint(self, run: str) -> str | None:
        """What keeps every host of the run's pool from being connected to, if something does."""
        try:
            pool = run_facts(self._ledger, run).request.pool
        except RecordUnreadable as error:
            return str(error)
        hosts = [host for host in self._ledger.hosts() if host.pool == pool]
        if hosts and all(is_uncounted(host) for host in hosts):
            return (
                f"pool {pool} has not said yet which connections its hosts still have, so none is opened:"
                ' does it answer the "cbtfleet scheduler"?'
            )
        if hosts and all(is_closed(host) for host in hosts):
            left = min(host.circuit_left for host in hosts)
            return f"no host of pool {pool} lets us connect; tried again in {left:.0f} s: cbtfleet slots"
        if hosts and all(host.used >= host.effective_cap for host in hosts):
            return f"every connection of pool {pool}'s hosts is in use or not free yet: cbtfleet slots"
        return None
