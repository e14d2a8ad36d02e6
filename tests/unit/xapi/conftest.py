"""A small real XenAPI over HTTPS: threads, sockets, a self-signed certificate, and replies by script."""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import http.server
import ipaddress
import itertools
import socket
import ssl
import threading
import xmlrpc.client
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from workers.settings import PoolSettings
from workers.xenapi.connection import warn_once

PASSWORD = "s3cret-password"


def _self_signed(addresses: list[str]) -> tuple[bytes, bytes]:
    """A certificate for loopback addresses and its key, both PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "xen1.test")])
    now = datetime.datetime.now(datetime.UTC)
    names = [x509.IPAddress(ipaddress.ip_address(address)) for address in addresses]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    return certificate.public_bytes(serialization.Encoding.PEM), private


@dataclass
class Action:
    """What to do with one call: `run` writes to the handler; it returns False to close the connection."""

    run: Callable[[http.server.BaseHTTPRequestHandler], bool]


@dataclass
class XapiServer:
    """One XAPI. Calls are answered from `script`, else by `handlers`, else "" as XAPI does for void."""

    address: str
    port: int
    scheme: str
    certificate: Path
    digest: str
    calls: list[tuple[str, tuple[Any, ...]]] = field(default_factory=list)
    connections: list[int] = field(default_factory=list)
    bytes_in: int = 0
    sessions: set[str] = field(default_factory=set)
    script: dict[str, deque[Any]] = field(default_factory=lambda: defaultdict(deque))
    handlers: dict[str, Callable[..., Any]] = field(default_factory=dict)
    close_idle: threading.Event = field(default_factory=threading.Event)
    server: Any = None

    @property
    def url(self) -> str:
        return f"{self.scheme}://{self.address}:{self.port}"

    def settings(self, **changes: Any) -> PoolSettings:
        values: dict[str, Any] = {"url": self.url, "username": "backup", "password": PASSWORD, "timeout": 5}
        if self.scheme == "https":
            values["ca_file"] = self.certificate
        return PoolSettings.model_validate({**values, **changes})

    def say(self, method: str, *replies: Any) -> None:
        """Replies for the next calls of `method`: values, `fail(...)`, or actions."""
        self.script[method].extend(replies)

    def methods(self) -> list[str]:
        return [method for method, _ in self.calls]

    def fail(self, *description: str) -> Action:
        return self.raw_value({"Status": "Failure", "ErrorDescription": list(description)})

    def raw_value(self, value: Any) -> Action:
        """A reply struct as given, complete or not."""
        text = xmlrpc.client.dumps((value,), methodresponse=True, allow_none=True)
        return self.body(text.encode())

    def body(self, data: bytes, status: int = 200, reason: str | None = None) -> Action:
        def run(handler: http.server.BaseHTTPRequestHandler) -> bool:
            handler.send_response(status, reason)
            handler.send_header("Content-Type", "text/xml")
            handler.send_header("Content-Length", str(len(data)))
            handler.end_headers()
            handler.wfile.write(data)
            return True

        return Action(run)

    def drop(self) -> Action:
        """The call ran and the connection breaks before the answer."""
        return Action(lambda handler: False)

    def truncate(self) -> Action:
        def run(handler: http.server.BaseHTTPRequestHandler) -> bool:
            handler.send_response(200)
            handler.send_header("Content-Length", "1000")
            handler.end_headers()
            handler.wfile.write(b"<?xml version='1.0'?><methodResponse>")
            return False

        return Action(run)

    def hang(self, released: threading.Event) -> Action:
        def run(handler: http.server.BaseHTTPRequestHandler) -> bool:
            released.wait(20)
            return False

        return Action(run)

    def trickle(self, released: threading.Event) -> Action:
        """An answer that never ends, a space every 50 ms."""

        def run(handler: http.server.BaseHTTPRequestHandler) -> bool:
            handler.send_response(200)
            handler.send_header("Content-Length", "100000")
            handler.end_headers()
            with contextlib.suppress(OSError):
                while not released.wait(0.05):
                    handler.wfile.write(b" ")
            return False

        return Action(run)

    def then_close(self, value: Any, closed: threading.Event) -> Action:
        """A whole answer, then the server closes the connection without having said so."""

        def run(handler: http.server.BaseHTTPRequestHandler) -> bool:
            self.raw_value({"Status": "Success", "Value": value}).run(handler)
            handler.wfile.flush()
            handler.connection.close()
            handler.rfile.close()
            closed.set()
            return False

        return Action(run)

    def answer(self, method: str, params: tuple[Any, ...]) -> Action:
        self.calls.append((method, params))
        reply: Any = ""
        if self.script[method]:
            reply = self.script[method].popleft()
        elif method == "session.login_with_password":
            if params[1] != PASSWORD:
                reply = self.fail("SESSION_AUTHENTICATION_FAILED", params[0], f"bad: {params[1]}")
            else:
                reply = f"OpaqueRef:session-{self.address}-{next(_numbers)}"
                self.sessions.add(reply)
        elif params and params[0] not in self.sessions:
            reply = self.fail("SESSION_INVALID", str(params[0]))
        elif method == "session.logout":
            self.sessions.discard(params[0])
        elif method in self.handlers:
            reply = self.handlers[method](*params[1:])
        return reply if isinstance(reply, Action) else self.raw_value({"Status": "Success", "Value": reply})


_numbers = itertools.count(1)


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    timeout = 20
    xapi: XapiServer

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.xapi.bytes_in += len(body)
        params, method = xmlrpc.client.loads(body.decode())
        assert method is not None
        self.close_connection = not self.xapi.answer(method, params).run(self)

    def log_message(self, format: str, *args: Any) -> None:
        pass


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = False
    block_on_close = True
    context: ssl.SSLContext | None = None
    xapi: XapiServer
    live: set[socket.socket]

    def finish_request(self, request: Any, client_address: Any) -> None:
        """The handshake belongs to the connection's own thread; a client that leaves in it is no accident."""
        self.live.add(request)
        self.xapi.connections.append(client_address[1])
        try:
            if self.context is not None:
                request.settimeout(20)
                request = self.context.wrap_socket(request, server_side=True)
            super().finish_request(request, client_address)
        except OSError:
            pass
        finally:
            self.live.discard(request)
            request.close()

    def shutdown_request(self, request: Any) -> None:
        request.close()


@pytest.fixture
def start_xapi(tmp_path: Path) -> Iterator[Callable[..., XapiServer]]:
    """Starts one XAPI: `start_xapi("127.0.3.1", port=0, tls=True, names=[...])`."""
    with contextlib.ExitStack() as stack:

        def start(
            address: str = "127.0.3.1",
            *,
            port: int = 0,
            tls: bool = True,
            names: list[str] | None = None,
            issued: tuple[bytes, bytes] | None = None,
        ) -> XapiServer:
            certificate, key = issued or _self_signed(names or [address])
            file = tmp_path / f"{address}.pem"
            file.write_bytes(certificate)
            key_file = tmp_path / f"{address}.key"
            key_file.write_bytes(key)
            digest = hashlib.sha256(ssl.PEM_cert_to_DER_cert(certificate.decode())).hexdigest()
            handler = type("Handler", (_Handler,), {})
            server = _Server((address, port), handler)
            server.live = set()
            if tls:
                server.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
                server.context.load_cert_chain(file, key_file)
            scheme = "https" if tls else "http"
            xapi = XapiServer(address, server.server_address[1], scheme, file, digest, server=server)
            handler.xapi = server.xapi = xapi
            thread = threading.Thread(target=server.serve_forever, args=(0.02,))
            thread.start()

            def stop() -> None:
                server.shutdown()
                thread.join()
                server.server_close()

            stack.callback(stop)
            return xapi

        yield start


@pytest.fixture
def xapi(start_xapi: Callable[..., XapiServer]) -> XapiServer:
    return start_xapi()


@pytest.fixture
def password() -> str:
    return PASSWORD


@pytest.fixture(autouse=True)
def _every_warning_again() -> None:
    warn_once.cache_clear()


@pytest.fixture(autouse=True)
def _no_purpose_is_just_changing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workers.xenapi.endpoints.PROPAGATION_SECONDS", 0.0)
