"""The handshake as a state machine without sockets: it is fed bytes and says what to send.

              feed 18 bytes             feed 20 bytes       secured()            feed 134 bytes
    GREETING ---------------> STARTTLS --------------> TLS -------------> EXPORT ---------------> READY
        |     flags, STARTTLS                               EXPORT_NAME     ^                      size
        |                                                                   |
        +-- without TLS: flags, EXPORT_NAME --------------------------------+

The export name, a live credential, leaves this module in the step to EXPORT alone, which with TLS cannot be
reached but through `secured()`. Without an export name the server is only met: ABORT takes the place of
EXPORT_NAME, and READY that of EXPORT; no disk is opened.
"""

from __future__ import annotations

from enum import Enum

from workers.nbd import protocol
from workers.nbd.errors import Busy, ConnectionLost, ExportRefused, NbdError, ProtocolViolation, TlsRefused

_NOTHING = memoryview(b"")


class ExportName:
    """An export name that cannot be shown: XenServer's hold a session reference.

    Raises ValueError, without the name, when it is too long to be sent.
    """

    __slots__ = ("_bytes",)

    def __init__(self, name: str) -> None:
        self._bytes = memoryview(name.encode())
        if len(self._bytes) > protocol.MAX_EXPORT_NAME:
            raise ValueError(f"the export name is longer than {protocol.MAX_EXPORT_NAME} bytes")

    def __repr__(self) -> str:
        return "ExportName(hidden)"

    def option(self, flags: bytes) -> memoryview:
        """`flags`, then the EXPORT_NAME option. A memoryview, because its repr shows no content."""
        header = protocol.OPTION.pack(protocol.OPTION_MAGIC, protocol.OPTION_EXPORT_NAME, len(self._bytes))
        return memoryview(b"".join((flags, header, self._bytes)))


class Step(Enum):
    """Where the handshake stands. The value is what the server has to do next."""

    GREETING = "send its greeting"
    STARTTLS = "answer STARTTLS"
    TLS = "complete the TLS handshake"
    EXPORT = "open the disk (attaching it may take two minutes)"
    READY = "do nothing"


_WANTED = {
    Step.GREETING: protocol.GREETING.size,
    Step.STARTTLS: protocol.OPTION_REPLY.size,
    Step.TLS: 0,
    Step.EXPORT: protocol.EXPORT.size,
    Step.READY: 0,
}


class Handshake:
    """One handshake. `where` names the server in errors."""

    def __init__(self, export: ExportName | None, *, tls: bool, where: str) -> None:
        self.step = Step.GREETING
        self.size = 0
        self._export = export
        self._tls = tls
        self._where = where
        self._received = bytearray()

    @property
    def wanted(self) -> int:
        """How many bytes to receive before anything is to be done; 0 at TLS and READY.

        Never receive more: what follows STARTTLS belongs to the TLS handshake.
        """
        return _WANTED[self.step] - len(self._received)

    def feed(self, data: bytes | bytearray | memoryview) -> memoryview:
        """Takes at most `wanted` bytes and returns what to send now, often nothing.

        Raises ProtocolViolation and TlsRefused.
        """
        if len(data) > self.wanted:
            raise ProtocolViolation(f"{self._where} sent more than was asked for; give up on this server")
        self._received += data
        if self.wanted:
            return _NOTHING
        whole, self._received = self._received, bytearray()
        if self.step is Step.GREETING:
            return self._greeted(whole)
        if self.step is Step.STARTTLS:
            return self._starttls_answered(whole)
        if self.step is Step.EXPORT:
            self.size = protocol.parse_export(whole, self._where)
            self.step = Step.READY
        return _NOTHING

    def secured(self) -> memoryview:
        """TLS stands and the server is the right one: returns the option that opens the disk."""
        if self.step is not Step.TLS:
            raise RuntimeError(f"secured() at {self.step.name}")
        return self._last_option(b"")

    def ended(self) -> NbdError:
        """What it means that the server ended the connection now."""
        where = self._where
        if self.step is Step.GREETING and not self._received:
            return Busy(
                f"{where} closed the connection without a greeting: all its connections are taken, no network"
                " has an NBD purpose, or XAPI does not answer there; try again later"
            )
        if self.step is Step.EXPORT and not self._received:
            return ExportRefused(
                f"{where} closed the connection instead of opening the disk: the session has ended, the disk"
                " cannot be attached there, or the server insists on TLS; try another host"
            )
        return ConnectionLost(f"{where} closed the connection when it should {self.step.value}; try again")

    def _greeted(self, greeting: bytearray) -> memoryview:
        magic, style, offered = protocol.GREETING.unpack(greeting)
        if magic != protocol.GREETING_MAGIC:
            raise ProtocolViolation(f"{self._where} is not an NBD server: its first bytes are others")
        if style == protocol.OLDSTYLE_MAGIC:
            raise ProtocolViolation(
                f"{self._where} speaks the oldstyle NBD protocol, which has no TLS and no names"
            )
        if style != protocol.OPTION_MAGIC:
            raise ProtocolViolation(f"{self._where} greets like an NBD server but goes on with {style:#018x}")
        # NO_ZEROES is never taken up, so that the answer to EXPORT_NAME has one length with every server.
        flags = (offered & protocol.FLAG_FIXED_NEWSTYLE).to_bytes(4, "big")
        if not self._tls:
            return self._last_option(flags)
        if not offered & protocol.FLAG_FIXED_NEWSTYLE:
            raise TlsRefused(f"{self._where} does not offer the fixed newstyle protocol, so no TLS; not read")
        self.step = Step.STARTTLS
        return memoryview(flags + protocol.OPTION.pack(protocol.OPTION_MAGIC, protocol.OPTION_STARTTLS, 0))

    def _last_option(self, flags: bytes) -> memoryview:
        if self._export is None:
            self.step = Step.READY
            abort = protocol.OPTION.pack(protocol.OPTION_MAGIC, protocol.OPTION_ABORT, 0)
            return memoryview(flags + abort)
        self.step = Step.EXPORT
        return self._export.option(flags)

    def _starttls_answered(self, reply: bytearray) -> memoryview:
        magic, option, kind, length = protocol.OPTION_REPLY.unpack(reply)
        if magic != protocol.OPTION_REPLY_MAGIC or option != protocol.OPTION_STARTTLS:
            raise ProtocolViolation(
                f"{self._where} answered STARTTLS with something else; give up on this server"
            )
        if kind & protocol.REPLY_ERROR_BIT:
            raise TlsRefused(
                f"{self._where} refused TLS ({protocol.option_error_name(kind)}): give the NBD network the"
                " purpose nbd instead of insecure_nbd, or wait until that has reached the host; not read"
            )
        if kind != protocol.REPLY_ACK or length:
            raise ProtocolViolation(f"{self._where} answered STARTTLS with reply {kind} of {length} bytes")
        self.step = Step.TLS
        return _NOTHING
