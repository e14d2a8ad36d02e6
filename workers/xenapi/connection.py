"""The way to one XAPI host: its address, whom to trust there, and an HTTP connection that checks first."""

from __future__ import annotations

import functools
import hashlib
import http.client
import ipaddress
import logging
import re
import socket
import ssl
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit

from workers.errors import ConfigurationError
from workers.settings import PoolSettings
from workers.xenapi.errors import PoolUnreachable, PoolUntrusted

log = logging.getLogger(__name__)

CONNECT_SECONDS = 10.0  # TCP and TLS need milliseconds; who needs more is not there

_NAME_MISMATCHES = (62, 64)  # X509_V_ERR_HOSTNAME_MISMATCH, X509_V_ERR_IP_ADDRESS_MISMATCH
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
        """The same port and trust at the address that HOST_IS_SLAVE names, or at the port that it names."""
        host, _, port = master.rpartition(":")
        if host and port.isdecimal() and (host.count(":") == 0 or host.endswith("]")):
            return replace(self, host=host.strip("[]"), port=int(port))
        return replace(self, host=master.strip("[]"))

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


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class Connection(http.client.HTTPConnection):
    """HTTP over a socket that the server's trust was checked on. When connecting fails, nothing was run."""

    def __init__(self, server: Server, timeout: float) -> None:
        """No I/O. `timeout`: seconds for each piece of an answer; connecting gets 10 s at most."""
        super().__init__(server.host, server.port, timeout=min(timeout, CONNECT_SECONDS))
        self._server = server
        self._answer_timeout = timeout

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
            self.sock.settimeout(self._answer_timeout)
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
