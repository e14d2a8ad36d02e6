"""Real worker nodes on a simulated pool and a Redis of their own; the test plays the scheduler."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import redis
from kombu.exceptions import OperationalError

from infra.simulator import DiskSpec, PoolSpec, SimulatedPool, Timing, VmSpec
from scheduler.context import ControlContext
from scheduler.policies.requests import request_for_vms
from scheduler.runs.submit import submit_run
from scheduler.single_machine.embedded_redis import answers
from scheduler.steps import do_step
from tests.conftest import free_port, redis_server_binary
from tests.until import PATIENCE, until
from workers.broker import celery_app
from workers.errors import CbtfleetError
from workers.fleet import DiskProgress, Ledger, Slot
from workers.messages import STREAM_QUEUE, STREAM_TASK
from workers.redis_address import RedisAddress
from workers.repository import Repository, create_repository, load_private_keys, open_store
from workers.settings import load_settings


class WorkerSite:
    """One pool with one disk, one repository in a folder, one Redis, and nodes to be started and hurt."""

    def __init__(
        self, folder: Path, *, time_scale: float = 1.0, batches: int = 8, configured: str = ""
    ) -> None:
        """`configured` is put below the configuration file."""
        self.folder = folder
        self._blocks = batches * 512
        self._nights = 0
        self._redis_socket = folder / "redis.sock"
        self.redis = self._start_redis()
        disk = DiskSpec(batches * (32 << 20), "root")
        timing = Timing(login_failure_delay=0.1, data_destroy_wait=0.2, slot_release_delay=0.05)
        self.pool = SimulatedPool.start(PoolSpec(hosts=1, vms=(VmSpec("db", (disk,)),), timing=timing))
        (folder / "store").mkdir()
        self.metrics_port = free_port()
        self._config = folder / "cbtfleet.toml"
        self._config.write_text(self._toml(time_scale) + configured, encoding="utf-8")
        self.settings = load_settings(self._config, {})
        self._store = open_store(self.settings.repository)
        create_repository(self._store, self.settings.repository, encrypted=False, passphrase=None)
        keys = load_private_keys(self._store, self.settings.repository, lambda: "")
        repository = Repository.open(self._store, keys)
        self.ledger = Ledger.open(self.settings)
        self.ledger.found()
        self._context = ControlContext(self.settings, self.ledger, repository, "test")
        self._app = celery_app(RedisAddress.of(self.settings))
        self._nodes: list[subprocess.Popen[bytes]] = []
        self._end = threading.Event()
        self._control = threading.Thread(target=self._pump, daemon=True)
        self._control.start()

    def close(self) -> None:
        self._end.set()
        self._control.join()
        for node in self._nodes:
            if node.poll() is None:
                os.killpg(node.pid, signal.SIGKILL)
                node.wait()
        self._context.sessions.close()
        self.pool.stop()
        self._app.close()
        self.ledger.close()
        self._store.close()
        self.redis.close()
        self._server.terminate()
        self._server.wait()

    def _toml(self, time_scale: float) -> str:
        return f"""
[redis]
url = "unix://{self._redis_socket}"
[repository]
url = "file://{self.folder}/store"
[fleet]
time_scale = {time_scale}
[metrics]
worker_port = {self.metrics_port}
[pools.lab]
url = "{self.pool.url}"
username = "root"
password_file = "{self.pool.password_file}"
ca_file = "{self.pool.ca_file}"
timeout = 30
reclaim = "quarantine"
"""

    def _start_redis(self) -> redis.Redis:
        command = [redis_server_binary(), "--port", "0", "--unixsocket", str(self._redis_socket)]
        self._server = subprocess.Popen(
            [*command, "--dir", str(self.folder), "--save", ""], stdout=subprocess.DEVNULL
        )
        client = redis.Redis(unix_socket_path=str(self._redis_socket))
        until(lambda: answers(self._redis_socket))
        return client

    def restart_redis(self) -> None:
        """It comes back empty."""
        self.redis.close()
        self._server.terminate()
        self._server.wait()
        self.redis = self._start_redis()

    def _pump(self) -> None:
        while not self._end.is_set():
            try:
                self.ledger.sweep()
                for step in self.ledger.due_steps():
                    do_step(self._context, step)
                for grant in self.ledger.admit():
                    self._app.send_task(
                        STREAM_TASK, args=[grant.as_message()], queue=STREAM_QUEUE, ignore_result=True
                    )
                self.ledger.wait_for_work(0.2)
            except (CbtfleetError, OperationalError):
                self._end.wait(0.1)

    def node(
        self, concurrency: int, *, program: Sequence[str] = ("workers.node.main",)
    ) -> subprocess.Popen[bytes]:
        """A node that is ready for grants."""
        known = {node.name for node in self.ledger.nodes()}
        node = self.start_node(concurrency, program)
        self.wait_until(lambda: {each.name for each in self.ledger.nodes()} - known)
        return node

    def start_node(
        self, concurrency: int, program: Sequence[str], environment: Mapping[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", *program]
        with (self.folder / "node.log").open("ab") as log:
            node = subprocess.Popen(
                [*command, "--config", str(self._config), "--concurrency", str(concurrency)],
                stderr=log,
                stdout=log,
                start_new_session=True,
                env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), **(environment or {})},
            )
        self._nodes.append(node)
        return node

    def submit(self) -> str:
        """A run that reads the whole disk: a guest has filled it anew since the last one."""
        self._nights += 1
        [disk] = [disk["vdi"] for vm in self.pool.vms() for disk in vm["disks"]]
        if self._nights > 1:
            self.pool.write_random(disk, blocks=self._blocks, seed=self._nights, kind="text")
        return submit_run(self.ledger, request_for_vms(self.settings, "lab", ["db"]))

    def disk(self, run: str) -> DiskProgress | None:
        progress = self.ledger.progress(run).disks
        return progress[0] if progress else None

    def done(self, run: str) -> int:
        disk = self.disk(run)
        return disk.done if disk else 0

    def slots(self, state: str) -> list[Slot]:
        hosts = self.ledger.hosts()
        return [s for host in hosts for s in self.ledger.slots("lab", host.host) if s.state == state]

    def wait_until(self, true: Callable[[], Any], timeout: float = PATIENCE) -> None:
        """Polls a condition that no process announces."""
        until(true, timeout, report=lambda: self.log()[-6000:])

    def log(self) -> str:
        return (self.folder / "node.log").read_text(encoding="utf-8")

    def log_lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log().splitlines() if line.startswith("{")]


def process_of(slot: Slot) -> int:
    return int(slot.owner.rsplit("/", 1)[1])


def is_alive(process: int) -> bool:
    """False for a zombie too."""
    try:
        stat = Path(f"/proc/{process}/stat").read_text(encoding="ascii")
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] not in ("Z", "X")


def children_of(node: subprocess.Popen[bytes]) -> list[int]:
    text = Path(f"/proc/{node.pid}/task/{node.pid}/children").read_text(encoding="ascii")
    return [int(word) for word in text.split()]
