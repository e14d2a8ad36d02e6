"""The reconciler: the ledger says which hosts to count, and what follows from a count
(docs/fleet.md); here the pools are asked.

    hosts_to_count --host--> a thread for its pool --XenAPI--> counted    slots whose disk is gone become free
                                       |
                                       +-- may not, or cannot, be asked --> uncountable
                                       +-- does not answer ---------------> nothing is said, asked again
"""

from __future__ import annotations

import logging
import threading

from scheduler.hosts.host_count import Count, HostCounter, NotCountable
from scheduler.runs.states import a_run_goes_on
from workers.errors import CbtfleetError
from workers.fleet import HostToCount, Ledger
from workers.settings import PoolSettings, Settings
from workers.xenapi import Session, SessionLost, XapiError, XapiFailure

log = logging.getLogger(__name__)

CALL_TIMEOUT = 20.0
"""Seconds for one call of a count, at most: little is asked, and what is not answered is asked again."""

PAUSE_LONGEST = 30.0
"""Seconds between two tries at a pool that does not answer. The first pause is one second: a wrong password
must not become a login every second."""

_FAREWELL = 15.0
"""Seconds that we wait for a pool's thread to log out."""

_STALE = ("HANDLE_INVALID", "UUID_INVALID", "HOST_IS_SLAVE")


class PoolReconciler:
    """One pool's thread: it alone has the session, so a pool that hangs keeps no other pool waiting."""

    def __init__(self, ledger: Ledger, pool: str, settings: PoolSettings, repository_id: str) -> None:
        self._ledger = ledger
        self._pool = pool
        self._settings = settings.model_copy(update={"timeout": min(settings.timeout, CALL_TIMEOUT)})
        self._repository_id = repository_id
        self._counter: HostCounter | None = None
        self._asked: dict[str, HostToCount] = {}
        self._keep_session = True
        self._ended = False
        self._changed = threading.Condition()
        self._outage = False
        self._said_uncountable = False
        self._thread = threading.Thread(target=self._work, name=f"count {pool}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def ask(self, host: HostToCount) -> None:
        """An older question about the same host that was not begun yet is answered by the newer one."""
        with self._changed:
            self._asked[host.host] = host
            self._changed.notify()

    def keep_session(self, keep: bool) -> None:
        """Whether to stay logged in between two counts: a run goes on."""
        with self._changed:
            if keep != self._keep_session:
                self._keep_session = keep
                self._changed.notify()

    def end(self) -> None:
        with self._changed:
            self._ended = True
            self._changed.notify()

    def join(self) -> None:
        self._thread.join(_FAREWELL)

    def _work(self) -> None:
        pause = 1.0
        while True:
            host = self._next()
            if host is None:
                self._log_out()
                return
            try:
                self._answer(host)
            except CbtfleetError as error:
                self._log_out()
                if not self._outage:
                    log.warning("%s; its hosts are not counted until it answers again", error)
                self._outage = True
                self._pause(pause)
                pause = min(pause * 2, PAUSE_LONGEST)
            except Exception:
                log.exception("the reconciler of pool %s met something unexpected; going on", self._pool)
                self._log_out()
                self._pause(pause)
            else:
                if self._outage:
                    log.info("pool %s: its hosts are counted again", self._pool)
                self._outage = False
                pause = 1.0

    def _next(self) -> HostToCount | None:
        """The next question; None when this ends. Logs out when nothing is asked and no run goes on."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._ended or self._asked or self._is_idle())
                if self._ended:
                    return None
                if self._asked:
                    return self._asked.pop(next(iter(self._asked)))
            self._log_out()

    def _is_idle(self) -> bool:
        return self._counter is not None and not self._keep_session

    def _pause(self, seconds: float) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._ended, seconds)

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
            stale = isinstance(error, SessionLost) or (
                isinstance(error, XapiFailure) and error.code in _STALE
            )
            if not (kept and stale):
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


class Reconciler:
    """Hands what the ledger wants counted to the pools' threads.

    Nothing ends it but `stop`. A session is kept while a run of anybody goes on, and not longer: on a pool
    where nothing is backed up nobody of ours is logged in.
    """

    def __init__(self, ledger: Ledger, settings: Settings, repository_id: str) -> None:
        self._ledger = ledger
        self._settings = settings
        self._repository_id = repository_id
        self._pools: dict[str, PoolReconciler] = {}
        self._unknown: set[str] = set()
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._ask, name="count", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._end.set()
        if self._thread.is_alive():
            self._thread.join()
        for pool in self._pools.values():
            pool.end()
        for pool in self._pools.values():
            pool.join()

    def _ask(self) -> None:
        quiet = True
        while not self._end.wait(self._ledger.timing.count_every / 4):
            try:
                self.turn()
                quiet = True
            except CbtfleetError as error:
                if quiet:
                    log.warning("no count: %s; trying again", error)
                quiet = False
            except Exception:
                log.exception("the reconciler met something unexpected; going on")
                self._end.wait(1.0)

    def turn(self) -> None:
        for host in self._ledger.hosts_to_count():
            pool = self._pool(host.pool)
            if pool is not None:
                pool.ask(host)
        if self._pools:
            going_on = a_run_goes_on(self._ledger)
            for pool in self._pools.values():
                pool.keep_session(going_on)

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
