"""XAPI's HTTP: XML-RPC and JSON-RPC over TLS, one server a host."""

from __future__ import annotations

import contextlib
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from infra.simulator import jsonrpc_wire, xmlrpc_wire
from infra.simulator.dispatch import dispatch
from infra.simulator.failures import Failure, ReplyDropped, Stopping, TooEarly
from infra.simulator.listener import Connection
from infra.simulator.state import State

MAX_HEADERS = 1024
MAX_BODY = 300 << 10
FIRST_READ, FIRST_TOTAL = 10.0, 60.0
"""Seconds for the headers of a connection's first request; later ones may take for ever."""

_REASONS = {200: "OK", 400: "Bad Request", 404: "Not Found", 405: "Method Not Allowed",
            431: "Request Header Fields Too Large", 500: "Internal Server Error"}  # fmt: skip


@dataclass(frozen=True)
class Request:
    method: str
    target: str
    headers: dict[str, str] = field(repr=False)
    body: bytes = field(repr=False, default=b"")

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]

    @property
    def keep_alive(self) -> bool:
        return (
            self.headers.get("connection", "").lower() != "close" and self.headers[":version"] != "HTTP/1.0"
        )


class Refused(Exception):
    """A request that gets a bare HTTP status; the connection closes after it."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


def serve_xapi(
    state: State, host: str, context: Callable[[], ssl.SSLContext]
) -> Callable[[Connection], None]:
    """The handler of one host's HTTPS connections."""

    def handle(connection: Connection) -> None:
        connection.socket.settimeout(FIRST_TOTAL)
        connection.upgrade(context())
        reader = RequestReader(connection)
        with contextlib.suppress(ReplyDropped, Stopping):
            while _serve_one(state, host, connection, reader):
                pass
        connection.say_goodbye()

    return handle


def _serve_one(state: State, host: str, connection: Connection, reader: RequestReader) -> bool:
    """Answers one request; False when it was the connection's last."""
    try:
        request = reader.next()
        if request is None:
            return False
        if request.path not in {"/", "/RPC2", "/json", "/jsonrpc"}:
            raise Refused(404)
        if request.method != "POST":
            raise Refused(405)
        content_type, body = _answer(state, host, request)
    except Refused as refused:
        connection.socket.sendall(response(refused.status, "text/html", b"", keep_alive=False))
        return False
    connection.socket.sendall(response(200, content_type, body, keep_alive=request.keep_alive))
    return request.keep_alive


def _answer(state: State, host: str, request: Request) -> tuple[str, bytes]:
    if request.path == "/jsonrpc":
        try:
            call = jsonrpc_wire.decode_call(request.body)
        except jsonrpc_wire.NotJsonRpc as error:
            raise Refused(500) from error
        try:
            return "application/json", call.success(dispatch(state, host, call.method, call.params))
        except TooEarly as failure:
            return "application/json", jsonrpc_wire.early_failure(failure.description)
        except Failure as failure:
            return "application/json", call.failure(failure.description)
    try:
        method, params = xmlrpc_wire.decode_call(request.body)
        return "text/xml", xmlrpc_wire.encode_success(dispatch(state, host, method, params))
    except Failure as failure:
        return "text/xml", xmlrpc_wire.encode_failure(failure.description)
    except xmlrpc_wire.NotXmlRpc as error:
        raise Refused(500) from error


class RequestReader:
    """Reads HTTP requests one by one."""

    def __init__(
        self, connection: Connection, max_headers: int = MAX_HEADERS, max_body: int = MAX_BODY
    ) -> None:
        self._connection = connection
        self._max_headers = max_headers
        self._max_body = max_body
        self._buffer = b""
        self._first = True

    def next(self) -> Request | None:
        """None at the end of the connection. Raises Refused, OSError."""
        head = self._head()
        if head is None:
            return None
        lines = head.decode("latin-1").split("\r\n")
        try:
            method, target, version = lines[0].split(" ")
            headers = dict(line.split(":", 1) for line in lines[1:])
        except ValueError:
            raise Refused(400) from None
        named = {name.strip().lower(): value.strip() for name, value in headers.items()}
        named[":version"] = version
        return Request(method, target, named, self._body(method, named))

    def _head(self) -> bytes | None:
        started = time.monotonic()
        while b"\r\n\r\n" not in self._buffer:
            if len(self._buffer) > self._max_headers:
                raise Refused(431)
            self._connection.socket.settimeout(FIRST_READ if self._first else None)
            piece = self._connection.socket.recv(65536)
            if not piece or (self._first and time.monotonic() - started > FIRST_TOTAL):
                return None
            self._buffer += piece
        self._first = False
        self._connection.socket.settimeout(None)
        head, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
        if len(head) > self._max_headers:
            raise Refused(431)
        return head

    def _body(self, method: str, headers: dict[str, str]) -> bytes:
        if method == "GET":
            return b""
        try:
            length = int(headers["content-length"])
        except (KeyError, ValueError):
            raise Refused(500) from None
        if not 0 <= length <= self._max_body:
            raise Refused(500)
        while len(self._buffer) < length:
            piece = self._connection.socket.recv(65536)
            if not piece:
                raise ConnectionAbortedError
            self._buffer += piece
        body, self._buffer = self._buffer[:length], self._buffer[length:]
        return body


def response(status: int, content_type: str, body: bytes, *, keep_alive: bool) -> bytes:
    connection = "keep-alive" if keep_alive else "close"
    head = (
        f"HTTP/1.1 {status} {_REASONS[status]}\r\nContent-Type: {content_type}\r\n"
        f"Content-Length: {len(body)}\r\nConnection: {connection}\r\n"
        "Cache-Control: no-cache, no-store\r\n\r\n"
    )
    return head.encode() + body
