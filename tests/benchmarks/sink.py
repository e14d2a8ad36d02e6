"""The least that boto3 takes for an S3 server: reads what is PUT, keeps nothing, answers 200.

Run as a process of its own, whose CPU is not counted: `python -m tests.benchmarks.sink [FOLDER]`. Prints its
port. Ranges of files in the folder can be read.
"""

from __future__ import annotations

import re
import socket
import sys
import threading
from pathlib import Path

_ANSWER = b'HTTP/1.1 200 OK\r\nETag: "0"\r\nContent-Length: 0\r\n\r\n'


def serve() -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    print(listener.getsockname()[1], flush=True)
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=_swallow, args=(connection,), daemon=True).start()


def _swallow(connection: socket.socket) -> None:
    scrap = memoryview(bytearray(1 << 20))
    with connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        received = b""
        while True:
            while b"\r\n\r\n" not in received:
                more = connection.recv(65536)
                if not more:
                    return
                received += more
            head, _, body = received.partition(b"\r\n\r\n")
            left = _content_length(head) - len(body)
            while left > 0:
                count = connection.recv_into(scrap, min(left, len(scrap)))
                if not count:
                    return
                left -= count
            connection.sendall(_range_of(head) if head.startswith(b"GET ") else _ANSWER)
            received = b""


def _range_of(head: bytes) -> bytes:
    """The answer to `GET /bucket/key` with a range."""
    path = re.match(rb"GET /[^/]+/([^ ?]+)", head)
    wanted = re.search(rb"(?i)range: bytes=(\d+)-(\d+)", head)
    assert path is not None
    assert wanted is not None
    first, last = int(wanted[1]), int(wanted[2])
    with (Path(sys.argv[1]) / path[1].decode()).open("rb") as file:
        file.seek(first)
        data = file.read(last + 1 - first)
        size = file.seek(0, 2)
    head = f"HTTP/1.1 206 Partial Content\r\nContent-Length: {len(data)}\r\n".encode()
    return head + f'Content-Range: bytes {first}-{last}/{size}\r\nETag: "0"\r\n\r\n'.encode() + data


def _content_length(head: bytes) -> int:
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.strip().lower() == b"content-length":
            return int(value)
    return 0


if __name__ == "__main__":
    serve()
