"""A web service and a mail server on loopback, as small as a test of notifications needs them."""

from __future__ import annotations

import base64
import json
import socket
import socketserver
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class WebService:
    """Answers with `codes` one after the other, then with 200; keeps what it was sent."""

    codes: list[int] = field(default_factory=list)
    bodies: list[dict[str, Any]] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    url: str = ""


@contextmanager
def web_service(*codes: int, tls: ssl.SSLContext | None = None) -> Iterator[WebService]:
    service = WebService(codes=list(codes))

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            service.bodies.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            service.paths.append(self.path)
            code = service.codes.pop(0) if service.codes else 200
            self.send_response(code)
            if code == 302:
                self.send_header("Location", "/elsewhere")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    service.url = f"{'https' if tls else 'http'}://127.0.0.1:{server.server_address[1]}/hook?token=secret"
    with _serving(server):
        yield service


@dataclass
class MailServer:
    """Takes mail; `answers` replaces what it says to a command, once for each entry of the list."""

    answers: dict[str, list[str]] = field(default_factory=dict)
    letters: list[str] = field(default_factory=list)
    recipients: list[list[str]] = field(default_factory=list)
    users: list[str] = field(default_factory=list)
    encrypted: list[bool] = field(default_factory=list)
    port: int = 0


@contextmanager
def mail_server(
    tls: ssl.SSLContext | None = None, at_once: bool = False, **answers: list[str]
) -> Iterator[MailServer]:
    """With `tls` it offers STARTTLS, or speaks TLS from the beginning (`at_once`)."""
    found = MailServer(answers=answers)

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with suppress(OSError, ValueError):  # the other side left
                _Conversation(self.request, found, tls, at_once).hold()

    server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = False
    found.port = server.server_address[1]
    with _serving(server):
        yield found


class _Conversation:
    def __init__(
        self, connection: socket.socket, server: MailServer, tls: ssl.SSLContext | None, at_once: bool
    ) -> None:
        self._connection = connection
        self._server = server
        self._tls = tls
        self._encrypted = False
        if at_once:
            self._encrypt()
        self._file = self._connection.makefile("rwb")

    def _encrypt(self) -> None:
        assert self._tls is not None
        self._connection.settimeout(10)
        self._connection = self._tls.wrap_socket(self._connection, server_side=True)
        self._encrypted = True

    def _say(self, text: str) -> None:
        self._file.write(text.encode() + b"\r\n")
        self._file.flush()

    def hold(self) -> None:
        try:
            self._say("220 small")
            while line := self._file.readline():
                if not self._answer(line.decode().strip()):
                    return
        finally:
            self._file.close()
            self._connection.close()

    def _answer(self, line: str) -> bool:
        command = line.split(" ")[0].split(":")[0].upper()
        if self._server.answers.get(command):
            self._say(self._server.answers[command].pop(0))
            return True
        match command:
            case "EHLO":
                offers = ["small", "AUTH PLAIN", *(["STARTTLS"] if self._tls and not self._encrypted else [])]
                for offer in offers[:-1]:
                    self._say(f"250-{offer}")
                self._say(f"250 {offers[-1]}")
            case "STARTTLS":
                self._say("220 go on")
                self._file.close()
                self._encrypt()
                self._file = self._connection.makefile("rwb")
            case "AUTH":
                self._server.users.append(base64.b64decode(line.split(" ")[2]).decode().replace("\0", " "))
                self._say("235 welcome")
            case "MAIL":
                self._server.recipients.append([])
                self._say("250 fine")
            case "RCPT":
                self._server.recipients[-1].append(line.partition("<")[2].rstrip(">"))
                self._say("250 fine")
            case "DATA":
                self._say("354 go on")
                lines = []
                while (text := self._file.readline().decode()) != ".\r\n":
                    lines.append(text.rstrip("\r\n"))
                self._server.letters.append("\n".join(lines) + "\n")
                self._server.encrypted.append(self._encrypted)
                self._say("250 taken")
            case "QUIT":
                self._say("221 bye")
                return False
            case _:
                self._say("250 fine")
        return True


@contextmanager
def _serving(server: socketserver.TCPServer) -> Iterator[None]:
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
