"""What the fleet stands on, each a process of its own: Redis, the pool, and the store."""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import redis

from tests.source_tree import ROOT

PATIENCE = 30.0


class NotReady(Exception):
    """A server of the test's own did not start: no fault of the fleet."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class RedisServer:
    """With an append-only file, so that it can come back with what it knew."""

    def __init__(self, folder: Path, kind: str) -> None:
        self.folder = folder
        folder.mkdir()
        port = free_port() if kind == "tcp" else 0
        self.url = f"redis://127.0.0.1:{port}/0" if port else f"unix://{folder}/redis.sock"
        self._command = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder)]
        self._command += ["--appendonly", "yes", "--save", "", "--enable-debug-command", "yes"]
        self._command += [] if port else ["--unixsocket", str(folder / "redis.sock")]
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with (self.folder / "redis.out").open("ab") as log:
            self.process = subprocess.Popen(self._command, stdout=log, stderr=log, start_new_session=True)
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            with closing(self.client()) as client, suppress(redis.RedisError):
                client.ping()
                return
            time.sleep(0.02)
        raise NotReady("Redis does not answer")

    def ensure(self) -> None:
        """Starts it unless it runs."""
        if self.process is None:
            self.start()

    def client(self) -> Any:
        return redis.Redis.from_url(self.url, socket_timeout=5)

    def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        if self.process is None:
            return
        if self.process.poll() is None:
            self.process.send_signal(how)
        self.process.wait(10)
        self.process = None


class Pool:
    """The simulated pool, spoken to over its control port."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        folder.mkdir()
        command = [sys.executable, "-m", "infra.simulator", "--folder", str(folder), *arguments]
        with (folder / "stderr.log").open("wb") as errors:
            self.process = subprocess.Popen(
                command,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                cwd=folder,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
                start_new_session=True,
            )
        assert self.process.stdout is not None
        ready, _, _ = select.select([self.process.stdout], [], [], PATIENCE)
        line = self.process.stdout.readline() if ready else ""
        if not line:
            raise NotReady(f"the simulator: {(folder / 'stderr.log').read_text()[-500:]}")
        self.facts: dict[str, Any] = json.loads(line)
        self.hosts: list[str] = [host["uuid"] for host in self.facts["hosts"]]

    def get(self, path: str, **query: str) -> Any:
        with self._open(f"{path}?{urllib.parse.urlencode(query)}") as answer:
            return json.load(answer)

    def post(self, path: str, **body: Any) -> Any:
        with self._open(path, json.dumps(body).encode()) as answer:
            return json.load(answer)

    @contextmanager
    def content(self, vdi: str) -> Iterator[Any]:
        with self._open(f"/content?vdi={vdi}") as answer:
            yield answer

    def _open(self, path: str, body: bytes | None = None) -> Any:
        request = urllib.request.Request(self.facts["control"].rstrip("/") + path, data=body)
        return urllib.request.urlopen(request, timeout=60)

    def stop(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()


class FolderStore:
    """A mounted folder; while it is away, nothing is mounted there."""

    environment: dict[str, str]

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "store"
        self._folder.mkdir()
        self._elsewhere = folder / "unmounted"
        self.environment = {}
        self.settings = f'url = "file://{self._folder}"'
        self.own_settings = self.settings

    def go_away(self) -> None:
        if self._folder.exists():
            self._folder.rename(self._elsewhere)

    def come_back(self) -> None:
        if self._elsewhere.exists():
            self._elsewhere.rename(self._folder)

    def stop(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)


class BucketStore:
    """moto's S3 server behind a relay; while it is away, the relay refuses and cuts connections.

    The driver itself asks moto directly (`own_settings`).
    """

    def __init__(self, folder: Path) -> None:
        port = free_port()
        with (folder / "moto.out").open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        names = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION")
        self.environment = dict(zip(names, ("test", "test", "us-east-1"), strict=True))
        self._create_bucket(f"http://127.0.0.1:{port}/backups")
        self._relay = Relay(port)
        self.settings = f'url = "s3://backups/prod"\nendpoint_url = "http://127.0.0.1:{self._relay.port}"'
        self.own_settings = f'url = "s3://backups/prod"\nendpoint_url = "http://127.0.0.1:{port}"'

    def _create_bucket(self, url: str) -> None:
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            with suppress(OSError):
                urllib.request.urlopen(urllib.request.Request(url, method="PUT"), timeout=5).close()
                return
            time.sleep(0.05)
        raise NotReady("moto does not answer")

    def go_away(self) -> None:
        self._relay.close()

    def come_back(self) -> None:
        self._relay.open()

    def stop(self) -> None:
        self._relay.close()
        self.process.terminate()
        self.process.wait(10)


class Relay:
    """Passes TCP connections on to a local port, and can be away for a while."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._lock = threading.Lock()
        self._sockets: set[socket.socket] = set()
        self._listening: socket.socket | None = None
        self.port = 0
        self.open()

    def open(self) -> None:
        if self._listening is not None:
            return
        listening = socket.socket()
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(("127.0.0.1", self.port))
        listening.listen(64)
        self.port = listening.getsockname()[1]
        self._listening = listening
        threading.Thread(target=self._accept, args=(listening,), daemon=True).start()

    def close(self) -> None:
        if self._listening is None:
            return
        _end(self._listening)
        self._listening = None
        with self._lock:
            for one in self._sockets:
                with suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)

    def _accept(self, listening: socket.socket) -> None:
        while True:
            try:
                client, _ = listening.accept()
                server = socket.create_connection(("127.0.0.1", self._target))
            except OSError:
                return
            with self._lock:
                self._sockets |= {client, server}
            for one, other in ((client, server), (server, client)):
                threading.Thread(target=self._pass_on, args=(one, other), daemon=True).start()

    def _pass_on(self, one: socket.socket, other: socket.socket) -> None:
        with suppress(OSError):
            while data := one.recv(1 << 16):
                other.sendall(data)
        for each in (one, other):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        with self._lock:
            self._sockets.discard(one)
        one.close()


def _end(listening: socket.socket) -> None:
    with suppress(OSError):
        listening.shutdown(socket.SHUT_RDWR)
    listening.close()
