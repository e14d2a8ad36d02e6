"""The way to one XAPI host: its address, whom to trust there, and an HTTP connection that checks first."""

from __future__ import annotations

import functools
import hashlib
import http.client
import io
import ipaddress
import logging
import math
import re
import socket
import ssl
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from workers.errors import ConfigurationError
from workers.settings import PoolSettings
from workers.xenapi.errors import BadAnswer, PoolUnreachable, PoolUntrusted

log = logging.getLogger(__name__)

CONNECT_SECONDS = 10.0  # TCP and TLS need milliseconds; who needs more is not there

_NAME_MISMATCHES = (62, 64)  # X509_V_ERR_HOSTNAME_MISMATCH, X509_V_ERR_IP_ADDRESS_MISMATCH
_HOST_NAME = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,251}[A-Za-z0-9_])?")
_PEM = re.compile(r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)


@functools.cache
def warn_once(text: str) -> None:
    """Logs a warning the first time this process meets it: streams log in thousands of times a night."""
    log.warning(text)


@dataclass(frozen=True)
class Server:
    """Where to connect, and whom to trust there. `context` is None for plain HTTP, `pin` 64 hex digits.

    `known` are the certificates in ca_file (DER): who shows one of these is trusted under any name, by way of
    `any_name`, which checks all but the name.
    """

    pool: str
    host: str
    port: int
    context: ssl.SSLContext | None
    pin: str | None
    known: frozenset[bytes] = frozenset()
    any_name: ssl.SSLContext | None = None

    @classmethod
    def from_settings(cls, pool: str, settings: PoolSettings) -> Server:
        """The configured host. Raises ConfigurationError for a bad url or ca_file."""
        url = urlsplit(settings.url)
        try:
            host, port = url.hostname, url.port
        except ValueError as error:
            raise ConfigurationError(f"pool {pool}: url has no valid port") from error
        if not host or "@" in url.netloc:
            raise ConfigurationError(f'pool {pool}: url must look like "https://xen1.example", no user name')
        if url.scheme == "http":
            return cls(pool, host, port or 80, None, None)
        pin = settings.certificate_sha256
        context = tls_context(pool, settings)
        known, any_name = frozenset[bytes](), None
        if settings.ca_file is not None and context.check_hostname:
            known = _certificates(settings.ca_file)
            any_name = tls_context(pool, settings)
            any_name.check_hostname = False
        pin = pin.replace(":", "").lower() if pin else None
        return cls(pool, host, port or 443, context, pin, known, any_name)

    def at(self, master: str) -> Server:
        """The same port and trust at the address that HOST_IS_SLAVE names, or at the port that it names.
        Raises BadAnswer when that is no address."""
        host, _, text = master.rpartition(":")
        port = self.port
        if host and text.isascii() and text.isdecimal() and (host.count(":") == 0 or host.endswith("]")):
            port = int(text) if len(text) <= len("65535") else 0
        else:
            host = master
        host = host.removeprefix("[").removesuffix("]")
        if not 0 < port < 65536 or not (_HOST_NAME.fullmatch(host) or _is_address(host)):
            raise BadAnswer(f"pool {self.pool}: {self.host} names as another of its hosts what is no address")
        return replace(self, host=host, port=port)

    @property
    def netloc(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def url(self) -> str:
        return f"{'http' if self.context is None else 'https'}://{self.netloc}"

    def check_plain(self) -> None:
        """Plain HTTP carries the password in clear: only within this machine. Raises ConfigurationError."""
        if self.context is None:
            if not _is_loopback(self.host):
                raise ConfigurationError(
                    f"pool {self.pool}: http:// would send the password to {self.host} in clear; use https://"
                )
            warn_once(
                f"pool {self.pool}: http:// is not encrypted; accepted because it stays on this machine"
            )

    def secure(self, plain: socket.socket) -> socket.socket:
        """TLS over `plain`, trusted; raises before a byte of ours is sent."""
        if self.context is None:
            return plain
        secured = self.context.wrap_socket(plain, server_hostname=self.host)
        shown = hashlib.sha256(secured.getpeercert(binary_form=True) or b"").hexdigest()
        if self.pin not in (None, shown):
            secured.close()
            raise PoolUntrusted(
                f"pool {self.pool}: {self.host} shows the certificate with SHA-256 {shown}, which is not "
                "certificate_sha256; each host has its own, so name the master in url and pin the master's"
            )
        return secured

    def secure_known(self, plain: socket.socket, mismatch: ssl.SSLCertVerificationError) -> socket.socket:
        """TLS over `plain` to one of the very certificates in ca_file, whatever its name; else `mismatch`."""
        if self.any_name is None:
            raise mismatch
        secured = self.any_name.wrap_socket(plain, server_hostname=self.host)
        if secured.getpeercert(binary_form=True) not in self.known:
            secured.close()
            raise mismatch
        return secured


def _certificates(path: Path) -> frozenset[bytes]:
    """The certificates in a PEM file that `tls_context` has read already, as DER."""
    text = path.read_text(encoding="ascii", errors="replace")
    return frozenset(ssl.PEM_cert_to_DER_cert(pem) for pem in _PEM.findall(text))


def tls_context(pool: str, settings: PoolSettings) -> ssl.SSLContext:
    """A pinned certificate needs no other check; else verify_tls, ca_file, or the system's trust decides."""
    if settings.certificate_sha256 is not None or not settings.verify_tls:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        if settings.certificate_sha256 is None:
            warn_once(
                f"pool {pool}: verify_tls = false: whoever sits on the way can pose as the pool and read "
                "the password; set ca_file or certificate_sha256"
            )
    else:
        try:
            context = ssl.create_default_context(cafile=settings.ca_file)
        except OSError as error:
            why = "it holds no certificate" if isinstance(error, ssl.SSLError) else error.strerror
            raise ConfigurationError(f"pool {pool}: ca_file: cannot use {settings.ca_file}: {why}") from error
        if settings.ca_file is not None:  # it may hold a host's own certificate instead of its issuer's
            context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class AnswerTooLong(http.client.HTTPException):
    """More bytes than are taken came in one answer: `limit` of them are."""

    def __init__(self, limit: int) -> None:
        super().__init__(f"more than {limit} bytes")
        self.limit = limit


class _Bounded(io.RawIOBase):
    """What comes from a socket, for one answer: status, headers and body, also of every `100 Continue`."""

    def __init__(self, connection: Connection, plain: io.RawIOBase) -> None:
        self._connection = connection
        self._plain = plain

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        self._connection.wait_no_longer()
        received = self._plain.readinto(buffer)
        self._connection.count(received or 0)
        return received

    def close(self) -> None:
        self._plain.close()
        super().close()


class Connection(http.client.HTTPConnection):
    """HTTP over a socket that the server's trust was checked on. When connecting fails, nothing was run.

    Each exchange has one deadline, for all that is sent and all that is answered (docs/adr/0113). After it,
    and when nothing came for `timeout` seconds, TimeoutError is raised; AnswerTooLong when an answer has no
    end.
    """

    def __init__(self, server: Server, timeout: float) -> None:
        """No I/O. `timeout`: seconds for each piece of an answer; connecting gets 10 s at most."""
        super().__init__(server.host, server.port, timeout=min(timeout, CONNECT_SECONDS))
        self._server = server
        self._answer_timeout = timeout
        self._until = math.inf
        self._left = 0
        self._limit = 0
        self._answer_sock: socket.socket | None = None

    def begin(self, seconds: float, limit: int) -> None:
        """Of the next exchange: `seconds` for the whole of it, `limit` bytes at most in its answer."""
        self._until = time.monotonic() + seconds
        self._left = self._limit = limit
        self.timeout = min(self._answer_timeout, CONNECT_SECONDS, seconds)

    def wait_no_longer(self) -> None:
        """Sets how long the next wait may take. Raises TimeoutError when there is no time left."""
        left = self._until - time.monotonic()
        if left <= 0:
            raise TimeoutError
        if self._answer_sock is not None:
            self._answer_sock.settimeout(min(left, self._answer_timeout))

    def count(self, received: int) -> None:
        self._left -= received
        if self._left < 0:
            raise AnswerTooLong(self._limit)

    def send(self, data: Any) -> None:
        """All of it before the deadline, however slowly it is taken."""
        if self.sock is None:
            self.connect()
        self._answer_sock = self.sock
        rest = memoryview(data)
        while rest:
            self.wait_no_longer()
            rest = rest[self.sock.send(rest) :]

    def response_class(self, sock: socket.socket, **options: Any) -> http.client.HTTPResponse:  # type: ignore[override]
        """http.client makes every answer with this."""
        answer = http.client.HTTPResponse(sock, **options)
        plain = answer.fp.detach()
        answer.fp = io.BufferedReader(_Bounded(self, plain))
        return answer

    def connect(self) -> None:
        """Raises PoolUnreachable, PoolUntrusted or ConfigurationError."""
        where = f"pool {self._server.pool}"
        self._server.check_plain()
        try:
            super().connect()
            try:
                self.sock = self._server.secure(self.sock)
            except ssl.SSLCertVerificationError as error:
                if error.verify_code not in _NAME_MISMATCHES:
                    raise
                super().connect()  # a handshake that failed cannot be gone on with
                self.sock = self._server.secure_known(self.sock, error)
        except ssl.SSLCertVerificationError as error:
            raise PoolUntrusted(
                f"{where}: cannot trust the certificate of {self.host}: {error.verify_message.rstrip('.')}; "
                "set ca_file or certificate_sha256"
            ) from error
        except ssl.SSLError as error:
            reason = error.reason or "no TLS there"
            raise PoolUnreachable(f"{where}: TLS with {self._server.netloc} failed: {reason}") from error
        except (OSError, UnicodeError) as error:
            reason = (isinstance(error, OSError) and error.strerror) or "no answer in time"
            raise PoolUnreachable(f"{where}: cannot connect to {self._server.netloc}: {reason}") from error
