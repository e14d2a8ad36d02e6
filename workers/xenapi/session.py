"""A session with one pool's XenAPI: log in at its master, call, wait for tasks, always log out.

The XenAPI package does the protocol; the transport is ours, for three reasons: it has timeouts and decides
whom to trust; it sends every call exactly once (the standard one silently sends again when a connection
breaks, and `VM.snapshot` would run twice); and it checks the shape of each reply. The reasoning is in
docs/adr/0030-xenapi-sent-once.md.
"""

from __future__ import annotations

import http.client
import logging
import select
import threading
import time
import xml.etree.ElementTree as ElementTree
import xmlrpc.client
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any
from xml.parsers.expat import ExpatError

import XenAPI

from workers.settings import PoolSettings
from workers.xenapi.connection import Connection, Server, warn_once
from workers.xenapi.errors import (
    AnswerLost,
    BadAnswer,
    CallTimedOut,
    LoginRefused,
    PoolUnreachable,
    PoolUntrusted,
    SessionLost,
    XapiError,
    XapiFailure,
    redact,
)

__all__ = [
    "AnswerLost", "BadAnswer", "CallTimedOut", "LoginRefused", "PoolUnreachable", "PoolUntrusted", "Session",
    "SessionLost", "XapiError", "XapiFailure", "warn_once",
]  # fmt: skip

log = logging.getLogger(__name__)

_MASTER_HOPS = 2  # a member names the master; once more if the master changed that very moment
_FAREWELL_SECONDS = 10.0  # logout and task clean-up must not hold up an ending process
_REUSE_SECONDS = 5.0  # an idle connection older than this may be dead without our knowing
_POLL_FIRST, _POLL_LONGEST, _POLL_GROWTH = 0.05, 2.0, 1.5
_POLLS_LOST = 3  # polling changes nothing, so a broken poll may be repeated this often
_BUSY_NOW = ("OTHER_OPERATION_IN_PROGRESS", "TOO_MANY_PENDING_TASKS")
_QUEUE_SECONDS = 120.0  # how long to ask again an object that is busy; the call has run nothing then
_NO_TASK_MODE = ("Fault", "MESSAGE_METHOD_UNKNOWN")
_XMLRPC_INT = range(-(2**31), 2**31)


class _Unmarshaller(xmlrpc.client.Unmarshaller):
    """Dates stay the text that XAPI sent, "20260101T12:00:00Z": sortable, and no type of xmlrpc leaks."""

    def __init__(self) -> None:
        super().__init__()
        self.dispatch = {**self.dispatch, "dateTime.iso8601": xmlrpc.client.Unmarshaller.end_string}


class _Transport(xmlrpc.client.Transport):
    """Sends each request exactly once, over a kept connection only while that is known to be alive."""

    user_agent = "cbtfleet"
    accept_gzip_encoding = False

    def __init__(self, server: Server, timeout: float) -> None:
        super().__init__()
        self.server = server
        self.timeout = timeout
        self.reused = False
        """The last request went over a connection that had been kept."""
        self._keep = True
        self._used = 0.0

    def request(self, host: Any, handler: str, request_body: Any, verbose: bool = False) -> Any:
        try:
            return self.single_request(host, handler, request_body, verbose)
        except BaseException:
            # Also when interrupted: the answer still to come must not meet the logout that follows.
            self.close()
            self._keep = self._keep and not self.reused
            raise
        finally:
            self._used = time.monotonic()

    def make_connection(self, host: Any) -> http.client.HTTPConnection:
        self.reused = self._alive()
        if not self.reused:
            self.close()
            self._connection = host, Connection(self.server, self.timeout)
        connection = self._connection[1]
        assert connection is not None
        if connection.sock is not None:
            connection.sock.settimeout(self.timeout)
        return connection

    def _alive(self) -> bool:
        """Nothing to read between two calls means that the server has not closed; a FIN is readable.

        A server that closes while we are busy with it does so after each call: the next FIN may come too
        late to be seen, so nothing is kept from then on.
        """
        connection = self._connection[1]
        idle = time.monotonic() - self._used
        if not self._keep or connection is None or connection.sock is None or idle > _REUSE_SECONDS:
            return False
        poll = select.poll()
        poll.register(connection.sock, select.POLLIN)
        self._keep = not poll.poll(0)
        return self._keep

    def parse_response(self, response: Any) -> tuple[Any, ...]:
        """The one reply struct. ResponseError for anything else, TimeoutError for a trickling answer."""
        target = _Unmarshaller()
        parser = xmlrpc.client.ExpatParser(target)
        until = time.monotonic() + self.timeout
        try:
            while piece := response.read1(65536):
                parser.feed(piece)
                if time.monotonic() > until:
                    raise TimeoutError
            response.close()  # read1 leaves it open at its end, and the connection waits for that
            parser.close()
            reply = target.close()
        except (ExpatError, ValueError, LookupError, TypeError) as error:
            raise xmlrpc.client.ResponseError("it is not XML-RPC") from error
        if not _well_formed(reply):
            raise xmlrpc.client.ResponseError("it is not a struct with Status and Value or ErrorDescription")
        return reply


def _well_formed(reply: tuple[Any, ...]) -> bool:
    if len(reply) != 1 or not isinstance(reply[0], dict):
        return False
    status, failure = reply[0].get("Status"), reply[0].get("ErrorDescription")
    if status == "Failure":
        return isinstance(failure, list) and bool(failure) and all(isinstance(part, str) for part in failure)
    return status == "Success" and "Value" in reply[0]


def _wire(value: Any) -> Any:
    """`value` as XAPI wants it: XML-RPC has no integers beyond 32 bits, and XAPI takes them as text."""
    if isinstance(value, dict):
        return {str(key): _wire(member) for key, member in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_wire(member) for member in value]
    if isinstance(value, int) and not isinstance(value, bool) and value not in _XMLRPC_INT:
        return str(value)
    return value


class Session:
    """One login at a pool's master, for the thread that made it. A context manager: it always logs out."""

    def __init__(self, server: Server, timeout: float) -> None:
        """Not logged in yet and nothing opened: use `Session.login`."""
        self.pool = server.pool
        self.master_address = server.host
        self._transport = _Transport(server, timeout)
        self._proxy = XenAPI.Session(server.url, transport=self._transport, allow_none=False)
        self._thread = threading.get_ident()
        self._reference: str | None = None

    @classmethod
    def login(cls, pool: str, settings: PoolSettings, *, originator: str = "cbtfleet") -> Session:
        """Logs in at the master, wherever `settings.url` points to in the pool.

        Raises PoolUnreachable, PoolUntrusted, LoginRefused, another XapiError, or ConfigurationError.
        """
        password = settings.read_password()
        server = Server.from_settings(pool, settings)
        for _ in range(_MASTER_HOPS + 1):
            session = cls(server, settings.timeout)
            try:
                session._log_in(settings.username, password, originator)
                return session
            except XapiFailure as failure:
                session._transport.close()
                if failure.code != "HOST_IS_SLAVE" or not failure.params:
                    raise
                log.debug("pool %s: %s is not the master", pool, server.host)
                server = server.at(failure.params[0])
            except BaseException:
                session._transport.close()
                raise
        raise PoolUnreachable(f"pool {pool}: its hosts keep naming another master; is the pool electing one?")

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.logout()

    def call(self, method: str, *args: Any) -> Any:
        """`call("VDI.get_record", ref)`: the value as XAPI sends it, so integers and dates are text.

        The call is sent once; but one that only reads is sent again when a kept connection breaks under it.
        Raises XapiFailure, SessionLost, PoolUnreachable (not sent), or AnswerLost and
        its subclasses (sent, and nobody knows whether it ran).
        """
        try:
            return self._send(method, args)
        except AnswerLost as lost:
            reads = method.partition(".")[2].startswith("get_")
            if type(lost) is not AnswerLost or not reads or not self._transport.reused:
                raise
        return self._send(method, args)

    def _send(self, method: str, args: tuple[Any, ...]) -> Any:
        self._check_use(method)
        with self._translated(method):
            return self._proxy.xenapi_request(method, tuple(_wire(argument) for argument in args))

    def call_async(self, method: str, *args: Any, deadline: float = 3600.0) -> str:
        """Runs `method` as a task and waits up to `deadline` seconds for its result: text, "" for void.

        A pool that has no task mode for it has run nothing then, and is asked again without one. So is, for
        a while, one that is busy with the object: XAPI queues such calls itself, but not without end.
        The task is destroyed always, and cancelled when we stop waiting before its end. Raises as `call`
        does; CallTimedOut when the deadline has passed.
        """
        until = time.monotonic() + deadline
        give_up = min(until, time.monotonic() + _QUEUE_SECONDS)
        while True:
            try:
                return self._run_task(method, args, until)
            except XapiFailure as failure:
                if failure.code not in _BUSY_NOW or time.monotonic() + _POLL_LONGEST > give_up:
                    raise
                log.debug("%s", failure)
            time.sleep(_POLL_LONGEST)

    def logout(self) -> None:
        """Ends the session and closes the connection. Never fails; twice is fine."""
        if self._reference is None:
            return
        self._check_use("session.logout")
        self._transport.timeout = min(self._transport.timeout, _FAREWELL_SECONDS)
        try:
            with self._translated("session.logout"):
                getattr(self._proxy, "session.logout")(self._reference)
        except XapiError as error:
            log.debug("logout: %s", error)
        finally:
            self._reference = None
            self._transport.close()

    def _log_in(self, username: str, password: str, originator: str) -> None:
        try:
            with self._translated("session.login_with_password", secret=password):
                self._proxy.login_with_password(username, password, "1.0", originator)
        except XapiFailure as failure:
            if failure.code.startswith("SESSION_AUTH") or failure.code == "RBAC_PERMISSION_DENIED":
                raise LoginRefused(f'{failure}; user "{username}"') from None
            if failure.code in ("HOST_STILL_BOOTING", "HOST_IN_EMERGENCY_MODE"):
                raise PoolUnreachable(str(failure)) from None
            raise
        self._reference = self._proxy.handle
        # After SESSION_INVALID the package would log in again with these and send the call again. Without
        # them it says Fault 401 instead, and holds the password no longer.
        self._proxy.last_login_method = self._proxy.last_login_params = None

    def _check_use(self, method: str) -> None:
        if threading.get_ident() != self._thread:
            raise RuntimeError(
                f"{method}: this XenAPI session belongs to another thread; log in once a thread"
            )
        if self._reference is None:
            raise SessionLost(f"pool {self.pool}: {method}: not logged in")

    def _run_task(self, method: str, args: tuple[Any, ...], until: float) -> str:
        try:
            task = self.call(f"Async.{method}", *args)
        except XapiFailure as failure:
            if failure.code not in _NO_TASK_MODE:
                raise
            return str(self.call(method, *args))
        try:
            record = self._wait(task, method, until)
        except BaseException:
            self._quietly("task.cancel", task)
            raise
        finally:
            self._quietly("task.destroy", task)
        if record["status"] == "success":
            return self._task_result(method, record.get("result", ""))
        unexplained = "TASK_CANCELLED" if record["status"] == "cancelled" else "INTERNAL_ERROR"
        code, *params = record.get("error_info") or [unexplained]
        raise self._failure(code, params, method)

    def _wait(self, task: Any, method: str, until: float) -> dict[str, Any]:
        pause, lost = _POLL_FIRST, 0
        while True:
            try:
                record = self.call("task.get_record", task)
                if not isinstance(record, dict) or "status" not in record:
                    raise BadAnswer(f"pool {self.pool}: the task of {method} has no status")
                if record["status"] in ("success", "failure", "cancelled"):
                    return record
                lost = 0
            except (PoolUnreachable, AnswerLost):
                lost += 1
                if lost > _POLLS_LOST:
                    raise
            except XapiFailure as failure:
                if failure.code == "HANDLE_INVALID":
                    raise AnswerLost(
                        f"pool {self.pool}: the task of {method} vanished; was XAPI restarted?"
                    ) from None
                raise
            remaining = until - time.monotonic()
            if remaining <= 0:
                raise CallTimedOut(
                    f"pool {self.pool}: {method} did not end in time; its task was asked to cancel"
                )
            time.sleep(min(pause, remaining))
            pause = min(pause * _POLL_GROWTH, _POLL_LONGEST)

    def _task_result(self, method: str, text: str) -> str:
        """XAPI wraps a task's result as `<value>…</value>`; nothing for void. Bare text is taken as it is."""
        if not text.lstrip().startswith("<"):
            return text
        try:
            value = ElementTree.fromstring(text)
        except ElementTree.ParseError as error:
            raise BadAnswer(f"pool {self.pool}: the result of {method} is not XML") from error
        if value.tag != "value" or value.find(".//array") is not None or value.find(".//struct") is not None:
            raise BadAnswer(f"pool {self.pool}: the result of {method} is not a single value")
        return "".join(value.itertext())

    def _quietly(self, method: str, task: Any) -> None:
        usual = self._transport.timeout
        self._transport.timeout = min(usual, _FAREWELL_SECONDS)
        try:
            self.call(method, task)
        except XapiError as error:
            log.debug("%s", error)
        finally:
            self._transport.timeout = usual

    def _failure(self, code: str, params: list[str], method: str, secret: str = "") -> XapiFailure:
        for hidden in (self._reference, secret):
            if hidden:
                params = [param.replace(hidden, "<hidden>") for param in params]
        return XapiFailure(code, params, method, self.pool)

    @contextmanager
    def _translated(self, method: str, secret: str = "") -> Iterator[None]:
        """Foreign exceptions as ours. `from None` where their own text may hold a session reference."""
        where = f"pool {self.pool}: {method}"
        try:
            yield
        except XenAPI.Failure as error:
            code, *params = error.details
            if code == "HOST_IS_SLAVE" and self._reference is not None:
                raise SessionLost(f"{where}: {self.master_address} is no longer the pool's master") from None
            raise self._failure(code, params, method, secret) from None
        except xmlrpc.client.Fault as error:
            if error.faultCode == 401:
                raise SessionLost(f"{where}: the session has ended on the pool; log in again") from None
            raise BadAnswer(f"{where}: the answer is a fault: {redact(str(error.faultString))}") from None
        except xmlrpc.client.ProtocolError as error:
            why = {431: "the request's header is too long", 500: "XAPI failed, or the call was over 300 KiB"}
            text = why.get(error.errcode, redact(error.errmsg))
            raise BadAnswer(f"{where}: HTTP status {error.errcode} ({text})") from error
        except xmlrpc.client.ResponseError as error:
            raise BadAnswer(f"{where}: the answer makes no sense: {error}") from error
        except TimeoutError as error:
            seconds = f"{self._transport.timeout:g} s"
            raise CallTimedOut(f"{where}: no answer within {seconds}; it may still be running") from error
        except (OSError, http.client.HTTPException) as error:
            raise AnswerLost(f"{where}: the connection broke before the answer; it may have run") from error
