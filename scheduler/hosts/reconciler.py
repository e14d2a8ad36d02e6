"""The reconciler: the ledger says which hosts to count, and what follows from a count
(docs/fleet.md); here the pools are asked.

    hosts_to_count --host--> a loop for its pool --XenAPI--> counted      slots whose disk is gone become free
                                       |
                                       +-- may not, or cannot, be asked --> uncountable
                                       +-- does not answer ---------------> nothing is said, asked again
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence

from scheduler.background_loop import BackgroundLoop, stop_all
from scheduler.hosts.host_count import Count, HostCounter, NotCountable
from scheduler.runs.states import a_run_goes_on
from workers.fleet import HostToCount, Ledger
from workers.settings import PoolSettings, Settings
from workers.xenapi import Session, SessionLost, XapiError, XapiFailure, is_gone

log = logging.getLogger(__name__)

CALL_TIMEOUT = 20.0
"""Seconds for one call of a count, at most: little is asked, and what is not answered is asked again."""

PAUSE_LONGEST = 30.0
"""Seconds between two tries at a pool that does not answer. The first pause is one second: a wrong password
must not become a login every second."""

IDLE = 30.0
"""Seconds between two rounds of a pool's loop while nothing is asked: they show that it lives."""

LOG_OUT_WITHIN = 10.0
"""Seconds that a pool's loop has to log out when the scheduler ends."""


class PoolReconciler(BackgroundLoop):
    """One pool's loop: it alone has the session, so a pool that hangs keeps no other pool waiting."""

    def __init__(self, ledger: Ledger, pool: str, settings: PoolSettings, repository_id: str) -> None:
        super().__init__(
            f"reconciler/{pool}",
            f"the reconciler of pool {pool}",
            pause=IDLE,
            back_off=(1.0, PAUSE_LONGEST),
            stop_within=LOG_OUT_WITHIN,
        )
        self._ledger = ledger
        self._pool = pool
        self._settings = settings.model_copy(update={"timeout": min(settings.timeout, CALL_TIMEOUT)})
        self._repository_id = repository_id
        self._counter: HostCounter | None = None
        self._asked: dict[str, HostToCount] = {}
        self._asking = threading.Lock()
        self._keep_session = True
        self._said_uncountable = False

    def ask(self, host: HostToCount) -> None:
        """An older question about the same host that was not begun yet is answered by the newer one."""
        with self._asking:
            self._asked[host.host] = host
        self.wake()

    def keep_session(self, keep: bool) -> None:
        """Whether to stay logged in between two counts: a run goes on."""
        if keep != self._keep_session:
            self._keep_session = keep
            self.wake()

    def round(self) -> None:
        """Answers one question; logs out when there is none and no run goes on."""
        with self._asking:
            host = self._asked.pop(next(iter(self._asked))) if self._asked else None
        if host is None:
            if not self._keep_session:
                self._log_out()
            return
        with self.trying(f"counting the hosts of pool {self._pool}"):
            try:
                self._answer(host)
            except BaseException:
                self._log_out()
                raise
        self.wake()  # for the next question, or to see that there is none

    def finish(self) -> None:
        self._log_out()

    def _answer(self, host: HostToCount) -> None:
        try:
            count = self._counted(host.host)
        except NotCountable as error:
            if not self._said_uncountable:
                log.warning(
                    "pool %s: connections cannot be counted (%s); slots there are used again after a time",
                    self._pool,
                    error,
                )
            self._said_uncountable = True
            self._ledger.uncountable(host.pool, host.host, host.asked)
            return
        self._ledger.counted(host.pool, host.host, host.asked, count.plugged, count.others)

    def _counted(self, host: str) -> Count:
        """Once more with a new session when the kept one has ended, or knew a domain that is gone."""
        kept = self._counter is not None
        try:
            return self._counter_now().count(host)
        except XapiError as error:
            moved = isinstance(error, XapiFailure) and error.code == "HOST_IS_SLAVE"
            if not kept or not (isinstance(error, SessionLost) or is_gone(error) or moved):
                raise
        self._log_out()
        return self._counter_now().count(host)

    def _counter_now(self) -> HostCounter:
        if self._counter is None:
            self._counter = HostCounter(Session.login(self._pool, self._settings), self._repository_id)
        return self._counter

    def _log_out(self) -> None:
        counter, self._counter = self._counter, None
        if counter is not None:
            counter.session.logout()


class Reconciler(BackgroundLoop):
    """Hands what the ledger wants counted to the pools' loops.

    A session is kept while a run of anybody goes on, and not longer: on a pool where nothing is backed up
    nobody of ours is logged in.
    """

    def __init__(self, ledger: Ledger, settings: Settings, repository_id: str) -> None:
        pause = ledger.timing.count_every / 4
        super().__init__(
            "reconciler", "asking which hosts to count", pause=pause, back_off=(pause, 4 * pause)
        )
        self._ledger = ledger
        self._settings = settings
        self._repository_id = repository_id
        self._pools: dict[str, PoolReconciler] = {}
        self._unknown: set[str] = set()

    def round(self) -> None:
        for host in self._ledger.hosts_to_count():
            pool = self._pool(host.pool)
            if pool is not None:
                pool.ask(host)
        if self._pools:
            going_on = a_run_goes_on(self._ledger)
            for pool in self._pools.values():
                pool.keep_session(going_on)

    def finish(self) -> None:
        stop_all(self.parts())

    def parts(self) -> Sequence[BackgroundLoop]:
        return tuple(self._pools.values())

    def _pool(self, name: str) -> PoolReconciler | None:
        """None for a pool that the configuration does not have: another scheduler may have it."""
        if name not in self._pools:
            if name not in self._settings.pools:
                if name not in self._unknown:
                    log.warning("the ledger has hosts of pool %s, which the configuration has not", name)
                    self._unknown.add(name)
                return None
            self._pools[name] = PoolReconciler(
                self._ledger, name, self._settings.pools[name], self._repository_id
            )
            self._pools[name].start()
        return self._pools[name]
