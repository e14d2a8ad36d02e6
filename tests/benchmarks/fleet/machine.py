"""A Redis of the benchmark's own, and what to say about the machine it ran on."""

from __future__ import annotations

import os
import platform
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import redis

from tests.benchmarks.fleet.table import median_and_p99
from tests.conftest import free_port, redis_server_binary
from tests.fleet_clock import Clock, lua_with_injected_time
from workers.fleet import Ledger, scripts


@dataclass(frozen=True)
class OwnRedis:
    """An empty Redis: its addresses as the configuration spells them, its folder, and a client."""

    unix_url: str
    tcp_url: str
    folder: Path
    client: Any


@contextmanager
def own_redis(*, durable: bool) -> Iterator[OwnRedis]:
    """`durable`: with an append-only file, synced every second, as in production."""
    with tempfile.TemporaryDirectory(prefix="bench-fleet-") as name:
        path, port = Path(name) / "redis.sock", free_port()
        command = [redis_server_binary(), "--unixsocket", str(path), "--dir", name, "--save", ""]
        command += ["--bind", "127.0.0.1", "--port", str(port)]
        command += ["--appendonly", "yes" if durable else "no", "--appendfsync", "everysec"]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
            client = redis.Redis(unix_socket_path=str(path))
            try:
                _wait_until_it_answers(client, process)
                yield OwnRedis(f"unix://{path}", f"redis://127.0.0.1:{port}/0", Path(name), client)
            finally:
                client.close()
                process.terminate()


def _wait_until_it_answers(client: Any, process: subprocess.Popen[bytes]) -> None:
    for _ in range(1000):
        try:
            client.ping()
            return
        except redis.ConnectionError:
            if process.poll() is not None:
                break
            time.sleep(0.01)
    raise SystemExit("redis-server did not start")


@contextmanager
def founded_ledger(url: str) -> Iterator[Ledger]:
    """A ledger on an emptied Redis, with no barrier to wait for."""
    client = redis.Redis.from_url(url)
    client.flushall()
    client.close()
    ledger = Ledger.from_url(url)
    try:
        ledger.found()
        yield ledger
    finally:
        ledger.close()


@contextmanager
def ledger_in_virtual_time() -> Iterator[tuple[Ledger, Clock, Any]]:
    """The real Lua on a real Redis whose time stands still until the clock is advanced."""
    with own_redis(durable=False) as server:
        real, scripts.FOLDER = scripts.FOLDER, lua_with_injected_time(server.folder)
        try:
            clock = Clock(server.client)
            ledger = Ledger(server.client)
            ledger.found()
            yield ledger, clock, server.client
        finally:
            scripts.FOLDER = real


def timed(call: Callable[..., Any], *arguments: Any) -> tuple[float, Any]:
    """Seconds by the wall clock, and the answer."""
    start = time.perf_counter()
    answer = call(*arguments)
    return time.perf_counter() - start, answer


def ping(url: str, calls: int = 2000) -> str:
    client = redis.Redis.from_url(url)
    try:
        client.ping()
        return median_and_p99([timed(client.ping)[0] for _ in range(calls)])
    finally:
        client.close()


def description() -> str:
    version = subprocess.run([redis_server_binary(), "--version"], capture_output=True, text=True).stdout
    load = ", ".join(f"{average:.1f}" for average in os.getloadavg())
    return (
        f"{os.cpu_count()} cores, {_processor()}, load average {load}; "
        f"{' '.join(version.split()[:3])}, Python {platform.python_version()}, redis-py {redis.__version__}"
    )


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if "model name" in line), "?")
