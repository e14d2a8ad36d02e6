"""One NBD connection: opened, read from, closed. Reading is one thread's; `abort` may come from any."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from types import TracebackType

from workers.nbd import protocol
from workers.nbd.channel import Abort, Channel, Deadline, PlainChannel
from workers.nbd.errors import ConnectionLost, InvalidRead, NbdError, ProtocolViolation, ReadFailed
from workers.nbd.handshake import ExportName, Handshake, Step
from workers.nbd.tls import TlsClient
from workers.nbd.trust import Tls

DEFAULT_WINDOW = 8 << 20
"""Bytes asked for and not yet received: 400 MiB/s at a round trip of 20 ms."""

MAX_IN_FLIGHT = 512
"""Requests in flight at most: 14 KiB, which fits into any socket buffer. So sending them never has to wait
for a server that, being serial, waits for us to take its replies."""


@dataclass(frozen=True)
class Deadlines:
    """Seconds each step may take.

    `greeting` is for greeting and TLS, where a host has nothing to wait for; `handshake` is for all of these
    and EXPORT_NAME, where XenServer attaches the disk (up to 120 s); `read` is for one whole reply, counted
    from when it is waited for.
    """

    connect: float = 10
    handshake: float = 150
    read: float = 60
    close: float = 10
    greeting: float = 10

    def scaled(self, factor: float) -> Deadlines:
        """Each `factor` times as long."""
        return Deadlines(**{name: seconds * factor for name, seconds in asdict(self).items()})


DEFAULT_DEADLINES = Deadlines()


@dataclass(frozen=True, eq=False)
class Read:
    """`len(buffer)` bytes (1 byte .. 32 MiB) from byte `offset` of the disk, into a writable `buffer`."""

    offset: int
    buffer: memoryview = field(repr=False)


def connect(
    address: str,
    port: int,
    export_name: str,
    tls: Tls,
    deadlines: Deadlines = DEFAULT_DEADLINES,
    *,
    abort: Abort | None = None,
    before_step: Callable[[], object] | None = None,
) -> Connection:
    """Opens the disk behind `export_name`. The name is sent only after the server has been verified.

    `abort` ends the attempt, and the connection afterwards, from another thread. `before_step` is called
    before the host is dialled and before anything is sent to it in the handshake: the last moments for who
    was paused meanwhile to throw `abort`. Raises a subclass of NbdError, whose `advice` says what to do next.
    """
    export = ExportName(export_name)
    del export_name  # a traceback that shows variables must not show it
    client = None if tls.mode == "none" else TlsClient.prepare(tls)
    where = server_name(address, port)
    abort = abort or Abort()
    before_step = before_step or _nothing
    before_step()
    with ExitStack() as on_failure:
        plain = PlainChannel.dial(address, port, where, deadlines.connect, abort)
        on_failure.callback(plain.close)
        handshake = Handshake(export, tls=client is not None, where=where)
        channel = shake_hands(handshake, plain, client, where, deadlines, before_step)
        on_failure.pop_all()
        return Connection(plain, channel, handshake.size, where, deadlines, abort)


def server_name(address: str, port: int) -> str:
    """The server, in the words of every error."""
    return f"the NBD server at {f'[{address}]' if ':' in address else address}:{port}"


def shake_hands(
    handshake: Handshake,
    plain: PlainChannel,
    client: TlsClient | None,
    where: str,
    deadlines: Deadlines,
    before_step: Callable[[], object],
) -> Channel:
    """Takes `handshake` to its end; returns what to go on with, TLS if `client` is there."""
    channel: Channel = plain
    began = time.monotonic()
    while handshake.step is not Step.READY:
        seconds = deadlines.handshake
        if handshake.step is not Step.EXPORT:
            seconds = min(seconds, deadlines.greeting)
        deadline = Deadline(where, handshake.step.value, seconds, began + seconds)
        if handshake.step is Step.TLS:
            assert client is not None  # without one the handshake has no such step
            channel = client.secure(plain, where, deadline)
            before_step()
            channel.send(handshake.secured(), deadline)
            continue
        answer = memoryview(bytearray(handshake.wanted))
        received = channel.receive(answer, deadline)
        to_send = handshake.feed(answer[:received])
        if received < len(answer):
            raise handshake.ended()
        before_step()
        channel.send(to_send, deadline)
    return channel


def _nothing() -> None: ...


class Connection:
    """An open disk. Made by `connect`; a context manager that closes itself."""

    def __init__(
        self, plain: PlainChannel, channel: Channel, size: int, where: str, deadlines: Deadlines, abort: Abort
    ) -> None:
        self.size = size
        """Bytes of the disk, as the server says."""
        self._plain = plain
        self._channel = channel
        self._where = where
        self._deadlines = deadlines
        self._abort = abort
        self._pending: dict[int, Read] = {}
        self._pending_bytes = 0
        self._next_handle = 1
        self._broken = False
        self._ended: bool | None = None
        self._header = memoryview(bytearray(protocol.REPLY.size))

    def __enter__(self) -> Connection:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def tls_version(self) -> str:
        """For people: the protocol and the cipher, or "no TLS"."""
        return self._channel.version

    def read(self, requests: Iterable[Read], window: int = DEFAULT_WINDOW) -> Iterator[Read]:
        """Receives each request's bytes straight into its buffer and yields it once they are all there.

            requests    pulled  ->  in flight, `window` bytes at most  ->  yielded, in the server's order
                          |             refilled when half empty, so that
                      one is kept       many small requests are sent at once
                      back when it
                      does not fit

        Requests are pulled lazily, between two replies; while `requests` makes us wait, nothing is received.
        A request larger than the window travels alone. An iterator that is dropped before its end leaves
        replies on the line: the connection can then only be closed.

        Raises InvalidRead, ReadFailed, ConnectionLost, Stalled, ProtocolViolation.
        """
        if self._pending or self._broken:
            raise RuntimeError("an earlier read of this connection did not come to its end")
        try:
            waiting = iter(requests)
            held_back = next(waiting, None)
            while True:
                if self._pending_bytes <= window // 2:
                    held_back = self._send_requests(held_back, waiting, window)
                if not self._pending:
                    return
                yield self._receive_reply()
        except NbdError:
            self._broken = True
            raise

    def close(self) -> bool:
        """Sends the disconnect request and waits for the server's end. True when that was seen: the host has
        let go.

        Never fails: after an error, an abort or a passed deadline it just closes the socket. Again is fine.
        """
        if self._ended is None:
            self._ended = not self._broken and self._say_goodbye()
            self._plain.close()
        return self._ended

    def abort(self) -> None:
        """Ends the connection now, from any thread; a read that waits raises ConnectionLost."""
        self._abort.throw()

    def _say_goodbye(self) -> bool:
        deadline = Deadline.after(self._deadlines.close, self._where, "close the connection")
        try:
            self._channel.send(memoryview(protocol.disconnect_request()), deadline)
            self._channel.end(deadline)
        except NbdError:
            return False
        return True

    def _send_requests(self, first: Read | None, more: Iterator[Read], window: int) -> Read | None:
        """Fills the window, with one send, and returns the request that did not fit."""
        headers = bytearray()
        request = first
        while request is not None:
            length = self._checked_length(request)
            full = self._pending_bytes + length > window or len(self._pending) >= MAX_IN_FLIGHT
            if self._pending and full:
                break
            headers += protocol.read_request(self._next_handle, request.offset, length)
            self._pending[self._next_handle] = request
            self._pending_bytes += length
            self._next_handle += 1
            request = next(more, None)
        if headers:
            deadline = Deadline.after(self._deadlines.read, self._where, "take a request")
            self._channel.send(memoryview(headers), deadline)
        return request

    def _checked_length(self, request: Read) -> int:
        length = request.buffer.nbytes
        if request.buffer.readonly or not request.buffer.c_contiguous:
            raise InvalidRead(f"the buffer for the read at byte {request.offset} cannot be written to")
        if not 0 < length <= protocol.MAX_READ:
            raise InvalidRead(
                f"a read of {length} bytes at byte {request.offset}; 1 .. {protocol.MAX_READ} are possible"
            )
        if not 0 <= request.offset <= self.size - length:
            raise InvalidRead(
                f"a read of {length} bytes at byte {request.offset} ends beyond the disk's {self.size} bytes"
            )
        return length

    def _receive_reply(self) -> Read:
        deadline = Deadline.after(self._deadlines.read, self._where, "answer a read")
        if self._channel.receive(self._header, deadline) < len(self._header):
            raise ConnectionLost(
                f"{self._where} closed the connection with {len(self._pending)} reads unanswered;"
                " try another host"
            )
        handle, error = protocol.parse_reply(self._header, self._where)
        request = self._pending.pop(handle, None)
        if request is None:
            raise ProtocolViolation(
                f"{self._where} answered a read that was not asked for; give up on this server"
            )
        length = request.buffer.nbytes
        self._pending_bytes -= length
        if error:
            name = protocol.errno_name(error)
            raise ReadFailed(
                f"{self._where} could not read {length} bytes at byte {request.offset}: {name};"
                " try another host",
                errno_name=name,
                offset=request.offset,
                length=length,
            )
        received = self._channel.receive(request.buffer.cast("B"), deadline)
        if received < length:
            raise ConnectionLost(
                f"{self._where} closed the connection after {received} of {length} bytes at byte"
                f" {request.offset}: the disk cannot be read there, or the host let go; try another host"
            )
        return request
