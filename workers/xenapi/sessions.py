"""The sessions of one process: kept from one borrower to the next, so that a night costs a few logins.

    borrow --> an idle one, or a new login --> one thread's alone --> idle --> logged out: idle for long,
                                                   |                           too many, or at close
                                                   +--> the session or the pool was gone: dropped

XAPI keeps a few hundred sessions a user and throws out the least used beyond that; a login for every stream
would evict those that are at work (docs/adr/0033-sessions-are-kept.md).
"""

from __future__ import annotations

import atexit
import logging
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from pydantic import SecretStr

from workers.settings import PoolSettings, Settings
from workers.xenapi.errors import LoginRefused, XapiError
from workers.xenapi.memory import PoolMemory
from workers.xenapi.networks import remember_members
from workers.xenapi.session import Session

log = logging.getLogger(__name__)

KEPT = 2
"""Idle sessions kept for each pool."""
IDLE_SECONDS = 300.0
"""How long an idle session is kept: longer than a pause between two streams, shorter than a day's rest."""
_TRUSTED_SECONDS = 60.0  # an idle session older than this is asked whether it still lives
REFUSED_SECONDS, REFUSED_LONGEST = 60.0, 900.0
"""How long a refused password is not tried again: XAPI takes 5 s to refuse, and directories lock accounts."""


@dataclass
class _Refusal:
    username: str
    password: SecretStr
    text: str
    seconds: float
    until: float


@dataclass
class _Pool:
    """Of one pool: what is idle, and what is known. `login` is held by whoever logs in."""

    memory: PoolMemory = field(default_factory=PoolMemory)
    idle: list[tuple[float, Session]] = field(default_factory=list)
    login: threading.Lock = field(default_factory=threading.Lock)
    refusal: _Refusal | None = None


class Sessions:
    """Thread-safe; a session belongs to one borrower at a time. Close it, or it closes when Python exits."""

    def __init__(self, settings: Settings, originator: str = "cbtfleet") -> None:
        """No login is made before somebody borrows."""
        self._settings = settings
        self._originator = originator
        self._lock = threading.Lock()
        self._pools: dict[str, _Pool] = {}
        self._timer: threading.Timer | None = None
        self._process = 0

    def __enter__(self) -> Sessions:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextmanager
    def borrow(self, pool: str) -> Iterator[Session]:
        """A session of this pool for the calling thread, until the block ends.

        Keep the block open until the NBD server has answered to an export name made with it: the server
        checks the session once, then.
        Raises as `Session.login` does; LoginRefused at once for a while after the pool has refused, unless
        user or password have changed since.
        """
        settings = self._settings.pool(pool)
        known = self._known(pool)
        session = self._take(pool, settings, known)
        try:
            yield session
        finally:
            self._give_back(known, session)

    def close(self) -> None:
        """Logs out all that is idle; what is borrowed is logged out when it comes back. Again is fine."""
        with self._lock:
            atexit.unregister(self.close)
            self._process = 0
            timer, self._timer = self._timer, None
            idle = [session for known in self._pools.values() for _, session in known.idle]
            for known in self._pools.values():
                known.idle.clear()
        if timer is not None:
            timer.cancel()
            if timer is not threading.current_thread():
                timer.join()
        _log_out(idle)

    def _take(self, pool: str, settings: PoolSettings, known: _Pool) -> Session:
        while True:
            with self._lock:
                since, session = known.idle.pop() if known.idle else (0.0, None)
            if session is None:
                return self._log_in(pool, settings, known)
            session.hand_over()
            if session.settings == settings and self._lives(session, since):
                return session
            _log_out([session])

    def _lives(self, session: Session, since: float) -> bool:
        if time.monotonic() - since < _TRUSTED_SECONDS:
            return True
        with suppress(XapiError):
            session.call("pool.get_all")  # reads, so that a session that has ended is replaced
            return True
        return False

    def _log_in(self, pool: str, settings: PoolSettings, known: _Pool) -> Session:
        password = SecretStr(settings.read_password())
        with known.login:  # one after the other, so that one refusal is enough for all who wait
            refusal = known.refusal
            same = refusal is not None and (refusal.username, refusal.password) == (
                settings.username,
                password,
            )
            if refusal is not None and same and time.monotonic() < refusal.until:
                raise LoginRefused(refusal.text)
            try:
                session = Session.login(pool, settings, originator=self._originator, memory=known.memory)
            except LoginRefused as error:
                seconds = min(2 * refusal.seconds, REFUSED_LONGEST) if refusal and same else REFUSED_SECONDS
                text = f"{error}; not tried again with the same password for {seconds:.0f} s"
                until = time.monotonic() + seconds
                known.refusal = _Refusal(settings.username, password, text, seconds, until)
                raise LoginRefused(text) from error
            known.refusal = None
        with suppress(XapiError):
            remember_members(session)
        return session

    def _give_back(self, known: _Pool, session: Session) -> None:
        with self._lock:
            closed = self._process != os.getpid()
            surplus = [session] if session.lost or closed else []
            if not surplus:
                known.idle.append((time.monotonic(), session))
                surplus = [old for _, old in known.idle[:-KEPT]]
                del known.idle[:-KEPT]
                self._watch(IDLE_SECONDS)
        _log_out(surplus)

    def _known(self, pool: str) -> _Pool:
        with self._lock:
            if self._process != os.getpid():
                # The first borrower of this process; or a fork's child: the parent's sessions are not its.
                self._process = os.getpid()
                self._pools = {name: _Pool(known.memory) for name, known in self._pools.items()}
                self._timer = None
                atexit.register(self.close)
            return self._pools.setdefault(pool, _Pool())

    def _watch(self, seconds: float) -> None:
        """Looks at the idle ones after a while, once, however many come back meanwhile."""
        if self._timer is None:
            self._timer = threading.Timer(seconds, self._end_idle)
            self._timer.name = "xenapi-idle"
            self._timer.daemon = True
            self._timer.start()

    def _end_idle(self) -> None:
        oldest = time.monotonic() - IDLE_SECONDS
        with self._lock:
            if self._timer is not threading.current_thread():
                return  # closed meanwhile
            self._timer = None
            ended: list[Session] = []
            left: list[float] = []
            for known in self._pools.values():
                ended += [session for since, session in known.idle if since <= oldest]
                known.idle = [(since, session) for since, session in known.idle if since > oldest]
                left += [since for since, _ in known.idle]
            if left:
                self._watch(max(min(left) - oldest, 0.0))
        _log_out(ended)


def _log_out(sessions: list[Session]) -> None:
    for session in sessions:
        session.hand_over()
        session.logout()
