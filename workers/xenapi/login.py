"""One login at one host: a session's reference and the connection that its calls go over.

The XenAPI package does the protocol, over a transport of ours. Every foreign exception becomes one of
`workers.xenapi.errors` here, and nowhere else.
"""

from __future__ import annotations

import http.client
import logging
import xmlrpc.client
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import XenAPI

from workers.xenapi.connection import AnswerTooLong, Server
from workers.xenapi.download import download
from workers.xenapi.errors import (
    AnswerLost,
    BadAnswer,
    CallTimedOut,
    HostStarting,
    LoginRefused,
    PoolUnreachable,
    SessionLost,
    XapiError,
    XapiFailure,
)
from workers.xenapi.meanings import shown
from workers.xenapi.transport import Transport, wire

log = logging.getLogger(__name__)

_LOGOUT_SECONDS = 10.0  # logging out must not hold up an ending process


class Login:
    """For one thread at a time. Nothing is opened before `open`."""

    def __init__(self, server: Server, timeout: float) -> None:
        self.pool = server.pool
        self.host = server.host
        self.reference: str | None = None
        self._transport = Transport(server, timeout)
        self._proxy = XenAPI.Session(server.url, transport=self._transport, allow_none=False)

    @property
    def reused(self) -> bool:
        """The last call went over a connection that had been kept."""
        return self._transport.reused

    @contextmanager
    def hurried(self, seconds: float) -> Iterator[None]:
        """Calls inside may take `seconds` at most."""
        usual = self._transport.timeout
        self._transport.timeout = min(usual, seconds)
        try:
            yield
        finally:
            self._transport.timeout = usual

    def open(self, username: str, password: str, originator: str) -> None:
        """Logs in. Raises LoginRefused, HostStarting, PoolUnreachable, XapiFailure HOST_IS_SLAVE, ..."""
        try:
            with self._translated("session.login_with_password", secret=password):
                self._proxy.login_with_password(username, password, "1.0", originator)
        except XapiFailure as failure:
            if failure.code.startswith("SESSION_AUTH") or failure.code == "RBAC_PERMISSION_DENIED":
                raise LoginRefused(f'{failure}; user "{username}"') from None
            raise
        self.reference = self._proxy.handle
        # After SESSION_INVALID the package would log in again with these and send the call again. Without
        # them it says Fault 401 instead, and holds the password no longer.
        self._proxy.last_login_method = self._proxy.last_login_params = None

    def send(self, method: str, args: tuple[Any, ...]) -> Any:
        """The call's value; it goes over the wire once. Raises a subclass of XapiError."""
        with self._translated(method):
            return self._proxy.xenapi_request(method, tuple(wire(argument) for argument in args))

    def download(self, path: str, limit: int, deadline: float) -> bytes:
        """What XAPI serves there to this session. Raises what `workers.xenapi.download` raises."""
        server, timeout = self._transport.server, self._transport.timeout
        return download(server, path, self.reference or "", timeout, limit, deadline)

    def close(self) -> None:
        """Logs out and closes the connection. Never fails; twice is fine."""
        if self.reference is not None:
            self.end(self.reference)
        self.reference = None
        self._transport.close()

    def end(self, reference: str) -> None:
        """Logs out a session that is known here, this one or another. Never fails."""
        with self.hurried(_LOGOUT_SECONDS):
            try:
                with self._translated("session.logout", secret=reference):
                    getattr(self._proxy, "session.logout")(reference)
            except XapiError as error:
                log.debug("logout: %s", error)

    def drop(self) -> None:
        """Closes the connection and says nothing: for a session that has gone."""
        self.reference = None
        self._transport.close()

    def failure(self, code: str, params: list[str], method: str, secret: str = "") -> XapiFailure:
        """XAPI's own failure, without what must not be seen."""
        for hidden in (self.reference, secret):
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
            if code == "HOST_IS_SLAVE" and self.reference is not None:
                raise SessionLost(
                    f"{where}: {self.host} is no longer the pool's master", moved=True
                ) from None
            failure = self.failure(code, params, method, secret)
            if code == "HOST_STILL_BOOTING":  # said before anything is run, of any call
                raise HostStarting(str(failure)) from None
            if code == "HOST_IN_EMERGENCY_MODE":
                raise PoolUnreachable(str(failure)) from None
            raise failure from None
        except xmlrpc.client.Fault as error:
            if error.faultCode == 401:
                raise SessionLost(f"{where}: the session has ended on the pool; log in again") from None
            raise BadAnswer(f"{where}: the answer is a fault: {shown(str(error.faultString))}") from None
        except xmlrpc.client.ProtocolError as error:
            why = {431: "the request's header is too long", 500: "XAPI failed, or the call was over 300 KiB"}
            text = why.get(error.errcode, shown(error.errmsg))
            raise BadAnswer(f"{where}: HTTP status {error.errcode} ({text})") from error
        except xmlrpc.client.ResponseError as error:
            raise BadAnswer(f"{where}: the answer makes no sense: {error}") from error
        except AnswerTooLong as error:
            raise BadAnswer(
                f"{where}: the answer is longer than the {error.limit >> 20} MiB we take"
            ) from None
        except TimeoutError as error:
            seconds = f"{self._transport.timeout:g} s"
            raise CallTimedOut(f"{where}: no answer within {seconds}; it may still be running") from error
        except (OSError, http.client.HTTPException) as error:
            raise AnswerLost(f"{where}: the connection broke before the answer; it may have run") from error
