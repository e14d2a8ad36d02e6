"""A session with one pool's XenAPI: log in at its master, call, wait for tasks, always log out.

A call is sent once (docs/adr/0030-xenapi-sent-once.md). Only one that reads may be sent again: over a new
connection when a kept one broke, and with a new login when the pool has ended the session.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any

from workers.settings import PoolSettings
from workers.xenapi.blockers import what_blocks
from workers.xenapi.errors import (
    AnswerLost,
    CallTimedOut,
    HostStarting,
    PoolUnreachable,
    SessionLost,
    XapiError,
    XapiFailure,
)
from workers.xenapi.login import Login
from workers.xenapi.members import STARTING_SECONDS, log_in
from workers.xenapi.memory import PoolMemory
from workers.xenapi.tasks import never, run_when_free

log = logging.getLogger(__name__)

_ASIDE_SECONDS = 10.0  # for questions beside the point


class Session:
    """One login at a pool's master, for the thread that holds it. A context manager: it always logs out."""

    def __init__(
        self, settings: PoolSettings, originator: str, memory: PoolMemory, login: Login, patience: float
    ) -> None:
        """Use `Session.login`, or borrow one from `Sessions`."""
        self.pool = login.pool
        self.settings = settings
        self.memory = memory
        self.lost = False
        """The last call found the session or the pool gone, and that has not been healed."""
        self._gone = False
        self._originator = originator
        self._login = login
        self._patience = patience
        self._thread = threading.get_ident()

    @classmethod
    def login(
        cls,
        pool: str,
        settings: PoolSettings,
        *,
        originator: str = "cbtfleet",
        memory: PoolMemory | None = None,
        patience: float = STARTING_SECONDS,
    ) -> Session:
        """Logs in at the master, wherever `settings.url` points to in the pool.

        `patience`: seconds to wait for hosts that say that they are starting. Raises PoolUnreachable,
        PoolUntrusted, LoginRefused, another XapiError, or ConfigurationError.
        """
        memory = memory or PoolMemory()
        login = log_in(pool, settings, originator, memory, patience)
        return cls(settings, originator, memory, login, patience)

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.logout()

    @property
    def master_address(self) -> str:
        return self._login.host

    def call(self, method: str, *args: Any) -> Any:
        """`call("VDI.get_record", ref)`: the value as XAPI sends it, so integers and dates are text.

        The call is sent once; but one that only reads is sent again when a kept connection breaks under it,
        or, after a new login, when the pool no longer knows the session or XAPI restarts. Export names of
        before are void then: ask `VDI.get_nbd_info` last of all.
        Raises XapiFailure, SessionLost, PoolUnreachable (not sent), or AnswerLost and
        its subclasses (sent, and nobody knows whether it ran).
        """
        self._check_use(method)
        reads = method.partition(".")[2].startswith("get_")
        try:
            return self._send(method, args)
        except CallTimedOut as timeout:
            if reads:
                raise
            blocker = what_blocks(self.aside, method, args)
            raise CallTimedOut(f"{timeout}; {blocker}" if blocker else str(timeout)) from timeout
        except AnswerLost as lost:
            if type(lost) is not AnswerLost or not reads or not self._login.reused:
                raise
        except (SessionLost, HostStarting) as gone:
            if not reads:
                raise
            log.info("%s; logging in again", gone)
            self._log_in_again(known_still=isinstance(gone, HostStarting) or gone.moved)
        return self._send(method, args)

    def call_async(
        self, method: str, *args: Any, deadline: float = 3600.0, cancelled: Callable[[], bool] = never
    ) -> str:
        """Runs `method` as a task and waits up to `deadline` seconds for its result: text, "" for void.

        A pool that has no task mode for it has run nothing then, and is asked again without one. So is, for
        two minutes, one that is busy with the object: XAPI queues such calls itself, but not without end.
        The task is destroyed always, and cancelled when we stop waiting before its end.
        `cancelled` is asked four times a second: once it says yes the task is cancelled; when it comes to its
        end all the same, its result is returned. Raises as `call` does, once the task was begun only
        XapiFailure or AnswerLost; CallTimedOut, which names what holds the object, when the deadline has
        passed; CallCancelled.
        """
        return run_when_free(self, method, args, deadline, cancelled)

    def aside(self, method: str, *args: Any) -> Any:
        """A call that matters little, in a hurry: None when it fails."""
        try:
            self._check_use(method)
            with self._login.hurried(_ASIDE_SECONDS):
                return self._send(method, args)
        except XapiError as error:
            log.debug("%s", error)
            return None

    def download(self, path: str, *, limit: int, deadline: float) -> bytes:
        """The body of a GET of `path`, "/export_metadata?uuid=…": at most `limit` bytes, within `deadline`
        seconds. Asked again once, in a new session, when the pool has ended this one.

        Raises NotServed when this pool serves no such thing, XapiFailure when the user's role does not
        suffice, SessionLost, PoolUnreachable, or AnswerLost and its subclasses.
        """
        self._check_use(path.partition("?")[0])
        try:
            return self._login.download(path, limit, deadline)
        except SessionLost as gone:
            log.info("%s; logging in again", gone)
            self._log_in_again(known_still=False)
        return self._login.download(path, limit, deadline)

    def own(self, field: str) -> Any:
        """A field of this session's own record, e.g. "is_local_superuser". Raises as `call` does."""
        return self.call(f"session.get_{field}", self._login.reference)

    def export_name(self, vdi_uuid: str) -> str:
        """A disk's NBD export name as XAPI makes it for this session: a live credential.

        Source: XAPI's own rule for `VDI.get_nbd_info`; ask that instead wherever it answers.
        """
        return f"/{vdi_uuid}?session_id={self._login.reference}"

    def failure(self, code: str, params: list[str], method: str) -> XapiFailure:
        """What XAPI reports of a task, as the failure that it is."""
        return self._login.failure(code, params, method)

    def hand_over(self) -> None:
        """From now on it belongs to the calling thread; nobody else may be using it."""
        self._thread = threading.get_ident()

    def logout(self) -> None:
        """Ends the session and closes the connection. Never fails; twice is fine."""
        if self._gone:
            self._login.drop()
        elif self._login.reference is not None:
            self._check_use("session.logout")
            self._login.close()

    def _send(self, method: str, args: tuple[Any, ...]) -> Any:
        try:
            value = self._login.send(method, args)
        except (SessionLost, PoolUnreachable) as error:
            self.lost, self._gone = True, isinstance(error, SessionLost)
            raise
        self.lost = self._gone = False
        return value

    def _log_in_again(self, known_still: bool) -> None:
        """`known_still`: the pool may know the old session, and counts it until it is ended."""
        old = self._login
        new = log_in(self.pool, self.settings, self._originator, self.memory, self._patience)
        if known_still and old.reference is not None:
            new.end(old.reference)
        old.drop()
        self._login = new

    def _check_use(self, method: str) -> None:
        if threading.get_ident() != self._thread:
            raise RuntimeError(
                f"{method}: this XenAPI session belongs to another thread; log in once a thread"
            )
        if self._login.reference is None:
            raise SessionLost(f"pool {self.pool}: {method}: not logged in")
