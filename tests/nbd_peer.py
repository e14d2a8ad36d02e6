"""A scripted NBD server: a thread that does with one connection exactly what a test says.

It shares no code with the client, so that one mistake cannot be made on both sides.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
import threading
from collections.abc import Callable
from types import TracebackType

GREETING = b"NBDMAGICIHAVEOPT" + b"\x00\x01"
STARTTLS = b"IHAVEOPT" + struct.pack(">II", 5, 0)
STARTTLS_ACK = bytes.fromhex("0003e889045565a9 00000005 00000001 00000000")
DISCONNECT = bytes.fromhex("25609513 0000 0002 0000000000000000 0000000000000000 00000000")


def export_answer(size: int) -> bytes:
    return struct.pack(">QH", size, 3) + bytes(124)


def reply(handle: int, data: bytes = b"", error: int = 0) -> bytes:
    return struct.pack(">IIQ", 0x67446698, error, handle) + data


def starttls_error(number: int) -> bytes:
    return bytes.fromhex("0003e889045565a9 00000005") + struct.pack(">II", 1 << 31 | number, 0)


class Line:
    """The connection, as the script sees it. `received` has every byte that arrived, decrypted."""

    def __init__(self, sock: socket.socket, released: threading.Event) -> None:
        self.socket = sock
        self.received = bytearray()
        self._released = released

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def receive(self, length: int) -> bytes:
        data = bytearray()
        while len(data) < length:
            piece = self.socket.recv(length - len(data))
            if not piece:
                raise EOFError
            data += piece
            self.received += piece
        return bytes(data)

    def receive_to_end(self) -> None:
        while piece := self.socket.recv(65536):
            self.received += piece

    def requests(self, count: int) -> list[tuple[int, int, int]]:
        """Handle, offset and length of so many read requests."""
        found = []
        for _ in range(count):
            magic, flags, kind, handle, offset, length = struct.unpack(">IHHQQI", self.receive(28))
            assert (magic, flags, kind) == (0x25609513, 0, 0)
            found.append((handle, offset, length))
        return found

    def start_tls(self, context: ssl.SSLContext) -> None:
        """All of STARTTLS: greeting, the option, its answer, the TLS handshake."""
        self.send(GREETING)
        assert self.receive(20) == b"\x00\x00\x00\x01" + STARTTLS
        self.send(STARTTLS_ACK)
        self.socket = context.wrap_socket(self.socket, server_side=True, suppress_ragged_eofs=True)

    def export_name(self) -> bytes:
        header = self.receive(16)
        assert header[:12] == b"IHAVEOPT" + b"\x00\x00\x00\x01"
        return self.receive(int.from_bytes(header[12:], "big"))

    def open_plain(self, size: int) -> None:
        """All of a handshake without TLS."""
        self.send(GREETING)
        assert self.receive(4) == b"\x00\x00\x00\x01"
        self.export_name()
        self.send(export_answer(size))

    def stall(self) -> None:
        """Does nothing until the test is over."""
        self._released.wait(30)

    def reset(self) -> None:
        """Ends the connection with RST instead of FIN."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


class Peer:
    """Listens on loopback, runs `script` on the first connection and closes it when the script returns."""

    def __init__(self, script: Callable[[Line], None], address: str = "127.0.0.1") -> None:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self._listener = socket.socket(family)
        self._listener.bind((address, 0))
        self._listener.listen(1)
        self._script = script
        self._released = threading.Event()
        self._failure: BaseException | None = None
        self.address = address
        self.port = int(self._listener.getsockname()[1])
        self.received = bytearray()
        self._thread = threading.Thread(target=self._run, name="peer")

    def __enter__(self) -> Peer:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._released.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes an accept that nobody answers
        self._thread.join(10)
        self._listener.close()
        assert not self._thread.is_alive()
        if self._failure is not None and error is None:
            raise self._failure

    def _run(self) -> None:
        try:
            sock, _ = self._listener.accept()
        except OSError:
            return
        line = Line(sock, self._released)
        self.received = line.received
        try:
            self._script(line)
        except (OSError, EOFError):
            pass  # the client has gone, which most scripts provoke
        except AssertionError as failure:
            self._failure = failure
        finally:
            line.socket.close()
