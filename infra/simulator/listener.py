"""A listening socket with a thread for each connection, which ends all of them when it is told to."""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
import threading
from collections.abc import Callable


class Connection:
    """One accepted connection; becomes TLS by `upgrade`. Its thread uses it, any thread may `break_off`."""

    def __init__(self, accepted: socket.socket, address: str) -> None:
        self.socket: socket.socket = accepted
        self.address = address
        """The local address that the client connected to."""
        self._lock = threading.Lock()
        self._broken = False

    def upgrade(self, context: ssl.SSLContext) -> None:
        """The TLS handshake, as the server. Raises OSError (ssl.SSLError is one)."""
        with self._lock:
            if self._broken:
                raise ConnectionAbortedError
            wrapped = context.wrap_socket(self.socket, server_side=True, do_handshake_on_connect=False)
            self.socket = wrapped
        wrapped.do_handshake()

    def receive(self, length: int) -> bytes | None:
        """Exactly `length` bytes, or None when the client has closed before."""
        data = bytearray(length)
        view, got = memoryview(data), 0
        while got < length:
            count = self.socket.recv_into(view[got:])
            if not count:
                return None
            got += count
        return bytes(data)

    def break_off(self) -> None:
        """Wakes whoever reads or writes; the connection's own thread then closes it."""
        with self._lock, contextlib.suppress(OSError):
            self._broken = True
            # The base class's method: SSLSocket.shutdown would take the TLS state away from under the reader.
            socket.socket.shutdown(self.socket, socket.SHUT_RDWR)

    def reset(self) -> None:
        """Makes the coming close an RST instead of a FIN."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    def close(self) -> None:
        with self._lock:
            self._broken = True
            self.socket.close()

    def say_goodbye(self) -> None:
        """Sends TLS's close_notify, if it is TLS and the client takes it at once."""
        if isinstance(self.socket, ssl.SSLSocket):
            with contextlib.suppress(OSError, ValueError):
                self.socket.setblocking(False)
                self.socket.unwrap()


class Listener:
    """Open it with `listen`; `handle` runs in a thread of its own, and the connection is closed after it."""

    def __init__(self, listening: socket.socket, handle: Callable[[Connection], None], name: str) -> None:
        self._socket = listening
        self._handle = handle
        self._name = name
        self._lock = threading.Lock()
        self._connections: dict[Connection, threading.Thread] = {}
        self._stopping = False
        self._acceptor = threading.Thread(target=self._accept, name=f"{name} accept", daemon=True)

    @classmethod
    def listen(cls, listening: socket.socket, handle: Callable[[Connection], None], name: str) -> Listener:
        """Starts to accept on a bound socket, which is the listener's from now on."""
        listening.listen(256)
        listener = cls(listening, handle, name)
        listener._acceptor.start()
        return listener

    def break_off_all(self) -> None:
        with self._lock:
            connections = list(self._connections)
        for connection in connections:
            connection.break_off()

    def stop(self) -> None:
        """Closes the listening socket and all connections; returns when their threads have ended."""
        with self._lock:
            self._stopping = True
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._acceptor.join()
        self._socket.close()
        self.break_off_all()
        with self._lock:
            threads = list(self._connections.values())
        for thread in threads:
            thread.join()

    def _accept(self) -> None:
        while True:
            try:
                accepted, _ = self._socket.accept()
            except OSError:
                if self._stopping:
                    return
                continue
            with self._lock:
                if self._stopping:
                    accepted.close()
                    return
                connection = Connection(accepted, accepted.getsockname()[0])
                thread = threading.Thread(
                    target=self._serve, args=(connection,), name=self._name, daemon=True
                )
                self._connections[connection] = thread
            thread.start()

    def _serve(self, connection: Connection) -> None:
        try:
            with contextlib.suppress(OSError):
                connection.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._handle(connection)
        finally:
            connection.close()
            with self._lock:
                self._connections.pop(connection, None)


def bind(addresses: list[str], port: int) -> tuple[list[socket.socket], int]:
    """Sockets bound to one port on all addresses; port 0: one that is free on all. Raises OSError."""
    for attempt in range(50):
        sockets: list[socket.socket] = []
        try:
            chosen = port
            for address in addresses:
                one = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
                sockets.append(one)
                one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                one.bind((address, chosen))
                chosen = one.getsockname()[1]
            return sockets, chosen
        except OSError:
            for one in sockets:
                one.close()
            if port or attempt == 49:
                raise
    raise AssertionError("unreachable")
