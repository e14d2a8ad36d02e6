"""A night of thousands of VMs through a real scheduler process: what planning and finishing cost.

memory_scheduler: pump, Celery, steps   ->  Redis, a folder   <-  this process: streams of one block of zeros
"""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scheduler.policies.requests import request_from_policy
from scheduler.runs.facts import result_in_ledger
from scheduler.runs.submit import submit_run
from tests.benchmarks.fleet.machine import OwnRedis, own_redis
from tests.benchmarks.fleet.memory_pool import MemoryPool, Size
from tests.benchmarks.fleet.table import Row
from workers.extents import BLOCK_SIZE, Plan
from workers.fleet import Ledger, Outcome, Verdict
from workers.messages import STREAM_QUEUE, Grant
from workers.repository import (
    PackWriter,
    Repository,
    Store,
    WorkerKeys,
    create_repository,
    load_metadata_keys,
    open_store,
)
from workers.settings import Settings, load_settings

SCHEDULER_AIM, REDIS_AIM = 60.0, 0.20
TIME_SCALE = 0.2
"""A slot rests 5 s after its stream: at a fifth, 256 slots are enough for streams of some milliseconds."""


@dataclass(frozen=True)
class Night:
    """In seconds."""

    wall: float
    scheduler: float
    redis: float
    status: str
    points: int
    yardstick: float
    """CPU of ten million additions in Python, in the middle of it."""


def bench_night(quick: bool) -> Iterator[Row]:
    size = Size(vms=20 if quick else 5000, disks=1)
    with own_redis(durable=True) as server:
        night = _night(server, size)
    if (night.status, night.points) != ("succeeded", size.vms):
        raise SystemExit(f"the run ended {night.status} with {night.points} restore points")
    setting = f"{size.vms:,} VMs with {size.disks} disk, planned and finished in {night.wall:.0f} s"
    yield Row(
        f"CPU of the scheduler, {setting}",
        f"{night.scheduler:.1f} s",
        f"{SCHEDULER_AIM:.0f} s",
        night.scheduler <= SCHEDULER_AIM,
        f"{night.scheduler / size.vms * 1e3:.1f} ms a VM; XenAPI in memory, no XML-RPC; one changed block",
    )
    yield Row("CPU of ten million additions in Python meanwhile", f"{night.yardstick:.2f} s")
    share = night.redis / night.wall
    yield Row(
        "CPU of Redis, the same",
        f"{night.redis:.1f} s, {share:.0%} of a core",
        f"{REDIS_AIM:.0%}",
        share <= REDIS_AIM,
        "ledger and queue; append-only file",
    )


def _night(server: OwnRedis, size: Size) -> Night:
    file, settings = _configuration(server)
    store = open_store(settings.repository)
    keys = load_metadata_keys(store, settings.repository)
    repository = Repository.open(store, keys)
    MemoryPool(size, repository.repository_id).commit_earlier(repository, size.vms)
    ledger = Ledger.open(settings)
    ledger.found()
    streams = _Streams(server.client, ledger, store, keys.worker)
    try:
        with _scheduler(file, size, server.folder / "scheduler.log") as process, streams:
            spent = _cpu(process.pid), _redis_cpu(server.client)
            began, yardstick = time.monotonic(), 0.0
            run = submit_run(ledger, request_from_policy(settings, "nightly"))
            while (result := result_in_ledger(ledger, run)) is None:
                if process.poll() is not None:
                    raise SystemExit(f"the scheduler died: {server.folder / 'scheduler.log'}")
                time.sleep(0.1)
                yardstick = yardstick or _additions()
            wall = time.monotonic() - began
            scheduler, redis_seconds = _cpu(process.pid) - spent[0], _redis_cpu(server.client) - spent[1]
    finally:
        ledger.close()
        store.close()
    points = sum(row.point is not None for row in result.disks)
    return Night(wall, scheduler, redis_seconds, result.status, points // size.disks, yardstick)


def _configuration(server: OwnRedis) -> tuple[Path, Settings]:
    """An encrypted repository in a folder, and a policy without a schedule."""
    store = server.folder / "store"
    store.mkdir()
    file = server.folder / "cbtfleet.toml"
    keys = "".join(
        f'{kind}_key_file = "{server.folder}/{kind}"\n' for kind in ("public", "metadata", "private")
    )
    file.write_text(
        f'[redis]\nurl = "{server.unix_url}"\n[repository]\nurl = "file://{store}"\n{keys}'
        f"[fleet]\ntime_scale = {TIME_SCALE}\n[metrics]\nworker_port = 0\nscheduler_port = 0\n"
        '[pools.lab]\nurl = "http://127.0.0.1:1"\nusername = "nobody"\npassword = "none"\n'
        'reclaim = "quarantine"\n[policies.nightly]\npool = "lab"\ninclude = { names = ["*"] }\n'
    )
    settings = load_settings(file)
    with_store = open_store(settings.repository)
    create_repository(with_store, settings.repository, encrypted=True, passphrase="p", scrypt_log_n=10)
    with_store.close()
    return file, settings


@contextmanager
def _scheduler(file: Path, size: Size, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-m", "tests.benchmarks.fleet.memory_scheduler", str(file)]
    command += [str(size.vms), str(size.disks)]
    with log.open("wb") as output, subprocess.Popen(command, stdout=output, stderr=output) as process:
        try:
            while b"scheduler is ready" not in log.read_bytes():
                if process.poll() is not None:
                    raise SystemExit(f"the scheduler did not start:\n{log.read_text()}")
                time.sleep(0.05)
            yield process
        finally:
            process.terminate()


class _Streams:
    """Works off grants in this process: each batch is one block of zeros, which is not even read."""

    def __init__(self, client: Any, ledger: Ledger, store: Store, keys: WorkerKeys) -> None:
        self._client = client
        self._ledger = ledger
        self._store = store
        self._keys = keys
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._work)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    def _work(self) -> None:
        reported = 0.0
        while not self._end.is_set():
            if time.monotonic() - reported > 1:
                self._ledger.node_alive("node", 16)
                reported = time.monotonic()
            message = self._client.blpop(f"cbtfleet:queue:{STREAM_QUEUE}", 1)
            if message is not None:
                (grant,), _, _ = json.loads(base64.b64decode(json.loads(message[1])["body"]))
                self._stream(Grant.from_message(grant))

    def _stream(self, grant: Grant) -> None:
        work = self._ledger.claim(grant, "node/1")
        if work is None:
            return
        plan = Plan.unpack(self._ledger.plan(grant.run, grant.disk), work.virtual_size)
        self._ledger.opened(grant)
        following = self._ledger.take(grant)
        while following.verdict is Verdict.CONTINUE and following.batch is not None:
            place = {
                "disk": grant.disk,
                "run": grant.run,
                "batch": following.batch,
                "snapshot": work.snapshot,
            }
            writer = PackWriter(self._keys, **place, virtual_size=work.virtual_size)
            blocks = plan.batch(following.batch)
            writer.add(blocks, memoryview(bytes(len(blocks) * BLOCK_SIZE)))
            pack = writer.finish()
            self._store.put_if_absent(pack.key, pack.data)
            following = self._ledger.commit(grant, following.batch, 0, len(pack.data))
        self._ledger.release(grant, Outcome.CLEAN)


def _additions() -> float:
    began = time.thread_time()
    total = 0
    for number in range(10_000_000):
        total += number
    return time.thread_time() - began


def _cpu(pid: int) -> float:
    """Seconds of all threads of a process, user and system."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _redis_cpu(client: Any) -> float:
    cpu = client.info("cpu")
    return float(cpu["used_cpu_user"] + cpu["used_cpu_sys"])
