"""TLS over a plain channel. The only file here that knows `ssl`.

The TLS engine works between two memory buffers and never sees the socket. So there is one place that waits
and keeps deadlines (`PlainChannel`), and the socket is emptied in big steps: Python hands out one TLS record
(16 KiB) a call either way, but two system calls a record are saved. `docs/nbd.md` has the measurement.
"""

from __future__ import annotations

import contextlib
import re
import ssl
from collections.abc import Callable
from dataclasses import dataclass

from workers.nbd.channel import Deadline, PlainChannel
from workers.nbd.errors import ConnectionLost, TlsFailed, TlsMisconfigured, TlsUntrusted
from workers.nbd.trust import Tls, check_peer

_HOST_NAME = re.compile(r"(?=.{1,253}$)[A-Za-z0-9_](?:[A-Za-z0-9_.-]*[A-Za-z0-9])?")
_ADDRESS_LIKE = re.compile(r"[0-9.]+")
_STEP = 256 << 10
"""Bytes taken from the socket at once: more costs more cache than it saves in system calls."""


@dataclass(frozen=True)
class TlsClient:
    """All that can be made ready, and can be wrong, before a connection is opened."""

    tls: Tls
    context: ssl.SSLContext

    @classmethod
    def prepare(cls, tls: Tls) -> TlsClient:
        """Raises TlsMisconfigured when the mode lacks what it needs, or its files cannot be read."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
        context.check_hostname = (
            False  # `check_peer` does it: after the handshake, with the rules of each mode
        )
        if tls.mode != "ca":
            tls.expected()
            context.verify_mode = ssl.CERT_NONE
            return cls(tls, context)
        if not tls.subject or tls.ca_file is None:
            raise TlsMisconfigured('nbd_tls = "ca" needs ca_file and the subject from get_nbd_info')
        # Whatever stands in ca_file is trusted as it is: an intermediate or a host's own certificate too.
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        try:
            context.load_verify_locations(tls.ca_file)
        except ssl.SSLError as error:
            raise TlsMisconfigured(f"ca_file: {tls.ca_file} holds no certificate in PEM form") from error
        except OSError as error:
            raise TlsMisconfigured(f"ca_file: cannot read {tls.ca_file}: {error.strerror}") from error
        return cls(tls, context)

    def secure(self, plain: PlainChannel, where: str, deadline: Deadline) -> TlsChannel:
        """Does the handshake and the verification; before it returns nothing else is sent.

        Raises TlsFailed, TlsUntrusted, Stalled and ConnectionLost.
        """
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        engine = self.context.wrap_bio(incoming, outgoing, server_hostname=_server_name(self.tls.subject))
        channel = TlsChannel(plain, engine, incoming, outgoing, where)
        channel.shake_hands(deadline)
        check_peer(self.tls, engine.getpeercert(binary_form=True), where)
        return channel


class TlsChannel:
    """Bytes over TLS; made by `TlsClient.secure`."""

    def __init__(
        self,
        plain: PlainChannel,
        engine: ssl.SSLObject,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        where: str,
    ) -> None:
        self._plain = plain
        self._engine = engine
        self._incoming = incoming
        self._outgoing = outgoing
        self._where = where
        self._step = memoryview(bytearray(_STEP))

    @property
    def version(self) -> str:
        return f"{self._engine.version()} {(self._engine.cipher() or ('no cipher',))[0]}"

    def shake_hands(self, deadline: Deadline) -> None:
        while True:
            try:
                self._engine.do_handshake()
                break
            except ssl.SSLWantReadError:
                self._flush(deadline)
                if not self._take_in(deadline):
                    raise TlsFailed(
                        f"{self._where} closed the connection during the TLS handshake; try another host"
                    ) from None
            except ssl.SSLCertVerificationError as error:
                self._flush(deadline)
                raise TlsUntrusted(
                    f"{self._where} failed the chain check: {error.verify_message}; put the CA of the host's"
                    ' certificate into ca_file, or use nbd_tls = "certificate"'
                ) from error
            except ssl.SSLError as error:
                self._flush(deadline)
                raise TlsFailed(
                    f"{self._where}: TLS handshake failed: {_reason(error)}; try another host"
                ) from error
        self._flush(deadline)

    def receive(self, view: memoryview, deadline: Deadline) -> int:
        filled, length = 0, len(view)
        # typeshed says bytes, but with a buffer it returns the count
        read: Callable[[int, memoryview], int] = self._engine.read  # type: ignore[assignment]
        while filled < length:
            try:
                received = read(length - filled, view[filled:])
            except ssl.SSLWantReadError:
                self._flush(deadline)
                if not self._take_in(deadline):
                    break
                deadline.milliseconds_left()  # records without content never make us wait
                continue
            except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
                break
            except ssl.SSLError as error:
                raise ConnectionLost(
                    f"{self._where}: TLS broke: {_reason(error)}; try another host"
                ) from error
            if not received:
                break
            filled += received
        return filled

    def send(self, data: memoryview, deadline: Deadline) -> None:
        try:
            self._engine.write(data)
        except ssl.SSLError as error:
            raise ConnectionLost(f"{self._where}: TLS broke: {_reason(error)}; try another host") from error
        self._flush(deadline)

    def end(self, deadline: Deadline) -> None:
        """Sends close_notify. What the server still sends is dropped without being decrypted."""
        with contextlib.suppress(ssl.SSLError):  # it wants the server's close_notify, which may never come
            self._engine.unwrap()
        self._flush(deadline)
        self._plain.end(deadline)

    def _take_in(self, deadline: Deadline) -> bool:
        received = self._plain.receive_some(self._step, deadline)
        self._incoming.write(self._step[:received])
        return received > 0

    def _flush(self, deadline: Deadline) -> None:
        if self._outgoing.pending:
            self._plain.send(memoryview(self._outgoing.read()), deadline)


def _server_name(subject: str | None) -> str | None:
    """`subject` as the server name to ask for, when it can be one; addresses and wildcards cannot."""
    if subject is None or not _HOST_NAME.fullmatch(subject) or _ADDRESS_LIKE.fullmatch(subject):
        return None
    return subject if all(0 < len(label) < 64 for label in subject.split(".")) else None


def _reason(error: ssl.SSLError) -> str:
    return (error.reason or "unknown reason").replace("_", " ").lower()
