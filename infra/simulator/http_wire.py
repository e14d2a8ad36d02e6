"""HTTP as XAPI reads and writes it: one request after another, with its limits."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http import HTTPStatus

from infra.simulator.listener import Connection

MAX_HEADERS = 1024
MAX_BODY = 300 << 10
FIRST_READ, FIRST_TOTAL = 10.0, 60.0
"""Seconds for the headers of a connection's first request; later ones may take for ever."""


@dataclass(frozen=True)
class Request:
    method: str
    target: str
    headers: dict[str, str] = field(repr=False)
    body: bytes = field(repr=False, default=b"")
    """Of a PUT: empty, because it may be a whole disk; `RequestReader.pieces` has it."""

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

    def pieces(self, length: int) -> Iterator[bytes]:
        """The body that `next` left alone, as it comes in; fewer bytes when the client goes."""
        while length > 0:
            piece = self._buffer[:length] or self._connection.socket.recv(min(length, 1 << 20))
            self._buffer = self._buffer[length:]
            if not piece:
                return
            length -= len(piece)
            yield piece

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
        if method in {"GET", "PUT"}:
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
        f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\nContent-Type: {content_type}\r\n"
        f"Content-Length: {len(body)}\r\nConnection: {connection}\r\n"
        "Cache-Control: no-cache, no-store\r\n\r\n"
    )
    return head.encode() + body
