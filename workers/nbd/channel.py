"""Bytes over TCP, with a deadline on every wait and an end that another thread can bring about."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
import threading
import time
from dataclasses import dataclass
from typing import Any, Protocol

from workers.nbd.errors import ConnectionLost, Stalled, Unreachable

# A peer that vanishes without a word is noticed after 30 + 3 x 10 seconds, also while nothing is being read.
# The kernel sends no such questions while something of ours is unacknowledged; hence the same for that.
_KEEPALIVE = [
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 30),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 10),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
]
if hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux
    _KEEPALIVE.append((socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 60_000))


@dataclass(frozen=True)
class Deadline:
    """By when the server has to have done something."""

    where: str
    what: str
    seconds: float
    ends: float

    @classmethod
    def after(cls, seconds: float, where: str, what: str) -> Deadline:
        return cls(where, what, seconds, time.monotonic() + seconds)

    def milliseconds_left(self) -> int:
        """For poll. Raises Stalled once nothing is left."""
        left = self.ends - time.monotonic()
        if left <= 0:
            raise Stalled(f"{self.where} did not {self.what} within {self.seconds:g} s; try another host")
        return int(left * 1000) + 1


class Channel(Protocol):
    """What the protocol needs. Plain and TLS are two types, so that an upgrade is a visible step."""

    @property
    def version(self) -> str:
        """The TLS protocol and cipher, for people; or "no TLS"."""

    def receive(self, view: memoryview, deadline: Deadline) -> int:
        """Fills `view` and returns its length; less when the peer ended the connection before that."""

    def send(self, data: memoryview, deadline: Deadline) -> None:
        """Sends all of `data`. A peer that has gone is not noticed here but by the next `receive`."""

    def end(self, deadline: Deadline) -> None:
        """Says that nothing more will be sent, then reads and drops everything up to the peer's end."""


class Abort:
    """Ends a connection from another thread, at any moment from before it is dialled.

    Make one, hand it to `connect`, keep it where the decision falls (the lease on a connection slot, say).
    Once thrown it stays so: a connection that is dialled with it afterwards fails at once.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._channel: PlainChannel | None = None
        self._thrown = False

    def throw(self) -> None:
        with self._lock:
            self._thrown = True
            if self._channel is not None:
                self._channel.abort()

    def attach(self, channel: PlainChannel) -> None:
        with self._lock:
            self._channel = channel
            if self._thrown:
                channel.abort()


class PlainChannel:
    """A non-blocking TCP socket.

    The lock makes every system call on the socket exclusive with `abort`; only the waiting is outside of it.
    So a descriptor is never closed under a call, nor its number used after something else has got it.
    """

    def __init__(self, sock: socket.socket, where: str) -> None:
        sock.setblocking(False)
        self._socket = sock
        self._where = where
        self._lock = threading.Lock()
        self._waiting = False
        self._aborted = False
        self._readable = select.poll()
        self._readable.register(sock, select.POLLIN)
        self._writable = select.poll()
        self._writable.register(sock, select.POLLOUT)

    @classmethod
    def dial(cls, address: str, port: int, where: str, seconds: float, abort: Abort) -> PlainChannel:
        """Connects over IPv4 or IPv6. Raises Unreachable, and ConnectionLost when aborted."""
        try:
            found = socket.getaddrinfo(address, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            why = error.strerror if isinstance(error, OSError) else "that is no host name"
            raise Unreachable(f"{where} cannot be looked up: {why}; try another host") from error
        deadline = Deadline.after(seconds, where, "accept the connection")
        failure = Unreachable(f"{where} has no address; try another host")
        for family, kind, number, _, target in found:
            try:
                channel = cls(socket.socket(family, kind, number), where)
            except OSError as error:  # no IPv6 on this machine, or no descriptor left
                failure = _unreachable(where, error)
                continue
            abort.attach(channel)
            try:
                channel._connect(target, deadline)
            except Unreachable as error:
                channel.close()
                failure = error
            except BaseException:
                channel.close()
                raise
            else:
                return channel
        raise failure

    @property
    def version(self) -> str:
        return "no TLS"

    def receive_some(self, view: memoryview, deadline: Deadline) -> int:
        """At least one byte into `view`; 0 when the peer has ended or reset the connection."""
        while True:
            with self._lock:
                self._check()
                try:
                    return self._socket.recv_into(view)
                except BlockingIOError:
                    self._waiting = True
                except ConnectionResetError:
                    return 0
                except OSError as error:
                    raise self._lost(error) from error
            self._wait(self._readable, deadline)

    def receive(self, view: memoryview, deadline: Deadline) -> int:
        filled = 0
        while filled < len(view):
            received = self.receive_some(view[filled:], deadline)
            if not received:
                break
            filled += received
        return filled

    def send(self, data: memoryview, deadline: Deadline) -> None:
        while data:
            with self._lock:
                self._check()
                try:
                    data = data[self._socket.send(data) :]
                    continue
                except BlockingIOError:
                    self._waiting = True
                except (BrokenPipeError, ConnectionResetError):
                    return
                except OSError as error:
                    raise self._lost(error) from error
            self._wait(self._writable, deadline)

    def end(self, deadline: Deadline) -> None:
        with self._lock:
            self._check()
            with contextlib.suppress(OSError):  # the peer may have gone already
                self._socket.shutdown(socket.SHUT_WR)
        scrap = memoryview(bytearray(1 << 16))
        while self.receive_some(scrap, deadline):
            deadline.milliseconds_left()

    def close(self) -> None:
        """Closes the socket; again is fine. Only for the thread that uses the channel."""
        with self._lock:
            self._socket.close()

    def abort(self) -> None:
        """Ends the connection now, whatever its thread is doing: that one gets ConnectionLost."""
        with self._lock:
            self._aborted = True
            with contextlib.suppress(OSError):  # not connected, or closed
                self._socket.shutdown(socket.SHUT_RDWR)
            if not self._waiting:
                self._socket.close()

    def _connect(self, target: Any, deadline: Deadline) -> None:
        with self._lock:
            self._check()
            try:
                self._socket.connect(target)
            except BlockingIOError:
                self._waiting = True
            except OSError as error:
                raise _unreachable(self._where, error) from error
        if self._waiting:
            try:
                self._wait(self._writable, deadline)
            except Stalled as error:
                raise Unreachable(str(error)) from error
        with self._lock:
            self._check()
            error_number = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            # A reset means that it was accepted first, and counted: what follows will see the end.
            if error_number not in (0, errno.ECONNRESET):
                raise _unreachable(self._where, OSError(error_number, os.strerror(error_number)))
            # The receive buffer is left to the kernel, which lets it grow to what the line needs.
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for level, option, value in _KEEPALIVE:
                self._socket.setsockopt(level, option, value)

    def _wait(self, poll: select.poll, deadline: Deadline) -> None:
        try:
            while not poll.poll(deadline.milliseconds_left()):
                pass
        finally:
            with self._lock:
                self._waiting = False
                if self._aborted:
                    self._socket.close()

    def _check(self) -> None:
        if self._aborted:
            raise ConnectionLost(f"the connection to {self._where} was aborted on our side")
        if self._socket.fileno() < 0:
            raise ConnectionLost(f"the connection to {self._where} is closed")

    def _lost(self, error: OSError) -> ConnectionLost:
        return ConnectionLost(f"the connection to {self._where} broke: {error.strerror}; try another host")


def _unreachable(where: str, error: OSError) -> Unreachable:
    why = (error.strerror or type(error).__name__).lower()
    return Unreachable(f"{where} cannot be reached: {why}; try another host")
