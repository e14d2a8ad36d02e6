"""Meeting an NBD server as far as its certificate: for who wants to know whether disks could be read."""

from __future__ import annotations

from contextlib import suppress

from workers.nbd.channel import Abort, Deadline, PlainChannel
from workers.nbd.connection import Deadlines, server_name, shake_hands
from workers.nbd.errors import NbdError
from workers.nbd.handshake import Handshake
from workers.nbd.tls import TlsClient
from workers.nbd.trust import Tls


def meet(address: str, port: int, tls: Tls, deadlines: Deadlines) -> str:
    """The same steps as `connect` up to the verified server; then ABORT, so that no disk is opened.

    For as long as it takes it is one of the host's connections; when it returns the server has closed, or did
    not within `deadlines.close`. Returns the TLS protocol and cipher, or "no TLS". Raises a subclass of
    NbdError.
    """
    client = None if tls.mode == "none" else TlsClient.prepare(tls)
    where = server_name(address, port)
    plain = PlainChannel.dial(address, port, where, deadlines.connect, Abort())
    try:
        handshake = Handshake(None, tls=client is not None, where=where)
        channel = shake_hands(handshake, plain, client, where, deadlines, lambda: None)
        with suppress(NbdError):  # what we came for is known; the socket is closed all the same
            channel.end(Deadline.after(deadlines.close, where, "close the connection"))
        return channel.version
    finally:
        plain.close()
