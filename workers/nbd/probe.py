"""Would a disk be served here? A server is asked as far as its certificate, and no disk is opened.

Nothing is plugged in at the host, and the connection's place is given back at once
(docs/adr/0055-the-doctor-meets-the-hosts.md).
"""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

from workers.nbd.channel import Abort, Deadline, PlainChannel
from workers.nbd.connection import Deadlines, server_name, shake_hands
from workers.nbd.errors import (
    Busy,
    NbdError,
    Stalled,
    TlsMisconfigured,
    TlsRefused,
    TlsUntrusted,
    Unreachable,
)
from workers.nbd.handshake import Handshake
from workers.nbd.tls import TlsClient
from workers.nbd.trust import Tls

ProbeState = Literal["good", "busy", "unreachable", "silent", "untrusted", "no-tls", "failed"]


@dataclass(frozen=True)
class Probe:
    """How an NBD server answered. `said` is one line, without anything secret: of a good one the TLS protocol
    and cipher, or "no TLS"; else why a stream would not get in."""

    state: ProbeState
    said: str
    seconds: float


def probe_server(address: str, port: int, tls: Tls, deadlines: Deadlines) -> Probe:
    """The same steps as `connect` up to the verified server; then ABORT. Raises nothing.

    For as long as it takes it is one of the host's connections; when it returns the server has closed, or did
    not within `deadlines.close`.
    """
    began = time.monotonic()
    try:
        said = _handshake(address, port, tls, deadlines)
    except NbdError as error:
        return Probe(_state(error), str(error), time.monotonic() - began)
    return Probe("good", said, time.monotonic() - began)


def _handshake(address: str, port: int, tls: Tls, deadlines: Deadlines) -> str:
    """The TLS protocol and cipher, or "no TLS". Raises a subclass of NbdError."""
    client = None if tls.mode == "none" else TlsClient.prepare(tls)
    where = server_name(address, port)
    plain = PlainChannel.dial(address, port, where, deadlines.connect, Abort())
    try:
        handshake = Handshake(None, tls=client is not None, where=where)
        channel = shake_hands(handshake, plain, client, where, deadlines, lambda: None)
        with suppress(NbdError):  # what was asked is answered; the socket is closed all the same
            channel.end(Deadline.after(deadlines.close, where, "close the connection"))
        return channel.version
    finally:
        plain.close()


def _state(error: NbdError) -> ProbeState:
    if isinstance(error, Busy):
        return "busy"
    if isinstance(error, Unreachable):
        return "unreachable"
    if isinstance(error, Stalled):
        return "silent"
    if isinstance(error, TlsUntrusted | TlsMisconfigured):
        return "untrusted"
    return "no-tls" if isinstance(error, TlsRefused) else "failed"
