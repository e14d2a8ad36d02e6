"""A relay to the tests' Redis that loses answers: what was asked is done, and the asker never hears of it."""

from __future__ import annotations

import select
import socket
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress


class Relay:
    """`url` leads to the Redis behind the unix socket `path`."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.url = ""
        self.lose = 0
        """Of so many calls from now on the answer is lost, and the connection with it."""
        self.clients: set[socket.socket] = set()


@contextmanager
def relay_to(redis_url: str) -> Iterator[Relay]:
    relay = Relay(redis_url.removeprefix("unix://"))

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with socket.socket(socket.AF_UNIX) as server:
                server.connect(relay.path)
                relay.clients.add(self.request)
                _pass_on(relay, self.request, server)
                relay.clients.discard(self.request)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as listening:
        relay.url = f"redis://127.0.0.1:{listening.server_address[1]}/0"
        thread = threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield relay
        finally:
            listening.shutdown()
            thread.join()
            for client in list(relay.clients):
                with suppress(OSError):
                    client.shutdown(socket.SHUT_RDWR)


def _pass_on(relay: Relay, client: socket.socket, server: socket.socket) -> None:
    other = {client: server, server: client}
    while True:
        for ready in select.select(list(other), [], [])[0]:
            data = ready.recv(1 << 20)
            if not data:
                return
            if ready is server and relay.lose > 0:
                relay.lose -= 1
                return
            other[ready].sendall(data)
