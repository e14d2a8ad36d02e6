"""The parts of the demo, each a process of its own on loopback, in one temporary folder.

simulator    a pool of two hosts: XenAPI over HTTPS, NBD over TLS
moto         an S3 API over HTTP
redis        our own, on a unix socket
scheduler    cbtfleet scheduler
worker-1, 2  cbtfleet worker
"""

from __future__ import annotations

import json
import os
import select
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scheduler.demo.control import Control
from scheduler.single_machine import children
from scheduler.single_machine.embedded_redis import EmbeddedRedis
from scheduler.single_machine.up import declare_new, scheduler_command, worker_command
from workers.errors import CbtfleetError
from workers.fleet import Ledger
from workers.repository import write_file
from workers.settings import load_settings

Printed = Mapping[str, Any]
"""The JSON of another program: of a command of ours, or of the simulator."""

VMS = 2
DISKS = 2
HOSTS = 2
WORKERS = 2
STREAMS = 2
"""At a time, of each worker."""

CAP = 16
BUCKET = "backups"
PATIENCE = 30.0
"""Seconds for one part to be ready."""

_CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "demo",
    "AWS_SECRET_ACCESS_KEY": "demo",
    "AWS_DEFAULT_REGION": "us-east-1",
}


class DemoFailed(CbtfleetError):
    """A part of the demo did not do its part."""


@dataclass
class Stage:
    """Everything that runs, and how to talk to it."""

    folder: Path
    environment: Mapping[str, str]
    pool: Printed = field(default_factory=dict)
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def settings_file(self) -> Path:
        return self.folder / "cbtfleet.toml"

    @property
    def control(self) -> Control:
        return Control(self.pool["control"])

    def log_file(self, name: str) -> Path:
        return self.folder / "logs" / f"{name}.log"

    def start(self, name: str, command: Sequence[str]) -> subprocess.Popen[bytes]:
        with self.log_file(name).open("ab") as log:
            process = children.start(command, self.environment, stdout=log, stderr=log)
        self.processes[name] = process
        return process

    def check_alive(self) -> None:
        """Raises DemoFailed when a part has ended: waiting for it would be waiting for ever."""
        for name, process in self.processes.items():
            if process.poll() is not None:
                raise DemoFailed(f"the {name} ended with {process.returncode}: {self.last_line(name)}")

    def last_line(self, name: str) -> str:
        lines = self.log_file(name).read_text(encoding="utf-8", errors="replace").split("\n")
        said = next((line for line in reversed(lines) if line.strip()), "it said nothing")
        return f"{said[:300]} (log: {self.log_file(name)})"

    def cbtfleet(self, *arguments: str) -> Printed:
        """Runs one command of ours as a person would, and returns its JSON. Its stderr goes to ours.

        Raises DemoFailed when it says anything but exit code 0, or when a part has ended meanwhile.
        """
        command = [
            sys.executable,
            "-m",
            "scheduler.cli",
            "--config",
            str(self.settings_file),
            "--json",
            *arguments,
        ]
        with subprocess.Popen(command, env=dict(self.environment), stdout=subprocess.PIPE) as process:
            try:
                while True:
                    try:
                        printed, _ = process.communicate(timeout=0.5)
                        break
                    except subprocess.TimeoutExpired:
                        self.check_alive()
            except BaseException:
                process.kill()
                raise
        if process.returncode:
            raise DemoFailed(f"`cbtfleet {' '.join(arguments)}` ended with {process.returncode}")
        answer: Printed = json.loads(printed)
        return answer


@contextmanager
def open_stage(folder: Path, disk_size: str) -> Iterator[Stage]:
    """Starts everything but scheduler and workers (`start_fleet`); stops all of it at the end."""
    (folder / "logs").mkdir()
    stage = Stage(folder, os.environ | _CREDENTIALS)
    with ExitStack() as stack:
        stack.callback(_stop_all, stage)
        port = _free_port()
        stage.start("moto", [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)])
        stage.pool = _start_simulator(stage, disk_size)
        declare_new(stack.enter_context(EmbeddedRedis.start(folder / ".cbtfleet")))
        stack.callback(_stop_fleet, stage)
        _create_bucket(stage, f"http://127.0.0.1:{port}/{BUCKET}")
        _write_settings(stage, port)
        yield stage


def start_fleet(stage: Stage) -> None:
    """Starts scheduler and workers, and waits until the workers have reported to the ledger."""
    stage.start("scheduler", scheduler_command(stage.settings_file))
    for number in range(1, WORKERS + 1):
        stage.start(f"worker-{number}", worker_command(stage.settings_file, STREAMS))
    deadline = time.monotonic() + PATIENCE
    with closing(Ledger.open(load_settings(stage.settings_file))) as ledger:
        while len(ledger.nodes()) < WORKERS:
            stage.check_alive()
            if time.monotonic() > deadline:
                raise DemoFailed(f"the workers were not ready in time: {stage.last_line('worker-1')}")
            time.sleep(0.05)


def _start_simulator(stage: Stage, disk_size: str) -> Printed:
    size = ["--hosts", str(HOSTS), "--vms", str(VMS), "--disks", str(DISKS), "--disk-size", disk_size]
    command = [sys.executable, "-m", "infra.simulator", *size, "--folder", str(stage.folder / "pool")]
    with stage.log_file("simulator").open("ab") as log:
        process = children.start(command, stage.environment, stdout=subprocess.PIPE, stderr=log)
    stage.processes["simulator"] = process
    assert process.stdout is not None
    # It prints one line when it is ready; the pipe stays open as long as it runs.
    readable, _, _ = select.select([process.stdout], [], [], PATIENCE)
    line = process.stdout.readline() if readable else b""
    if not line:
        stage.check_alive()
        raise DemoFailed(f"the simulator was not ready in time: {stage.last_line('simulator')}")
    pool: Printed = json.loads(line)
    return pool


def _create_bucket(stage: Stage, url: str) -> None:
    """An S3 bucket is made by PUT on its address; moto asks for no signature."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            urllib.request.urlopen(urllib.request.Request(url, method="PUT"), timeout=5).close()
            return
        except urllib.error.HTTPError as error:
            error.close()
            raise DemoFailed(f"the S3 server answers {error.code} to the making of a bucket") from error
        except OSError as error:
            stage.check_alive()
            if time.monotonic() > deadline:
                raise DemoFailed(f"the S3 server was not ready in time: {stage.last_line('moto')}") from error
            time.sleep(0.05)


def _write_settings(stage: Stage, s3_port: int) -> None:
    pool = stage.pool
    write_file(stage.folder / "passphrase", b"demo\n")
    settings = f"""\
[repository]
url = "s3://{BUCKET}/demo"
endpoint_url = "http://127.0.0.1:{s3_port}"
public_key_file = "keys/public"
metadata_key_file = "keys/metadata"
private_key_file = "keys/private"
passphrase_file = "passphrase"

[pools.lab]
url = "{pool["url"]}"
username = "{pool["username"]}"
password_file = "{pool["password_file"]}"
ca_file = "{pool["ca_file"]}"
connections_per_host = {CAP}

[policies.nightly]
pool = "lab"
include = {{ tags = ["backup"] }}
"""
    write_file(stage.settings_file, settings.encode())
    exported = "".join(f'export {key}="{value}"\n' for key, value in _CREDENTIALS.items())
    exported += f'export CBTFLEET_CONFIG="{stage.settings_file}"\n'
    write_file(stage.folder / "environment", exported.encode())
    (stage.folder / "keys").mkdir(mode=0o700)


def _stop_fleet(stage: Stage) -> None:
    """Workers before the scheduler, both before Redis."""
    names = [name for name in stage.processes if name.startswith("worker")] + ["scheduler"]
    _stop(stage, names, patience=15)


def _stop_all(stage: Stage) -> None:
    _stop(stage, list(stage.processes), patience=5)


def _stop(stage: Stage, names: Sequence[str], patience: float) -> None:
    found = [stage.processes.pop(name) for name in names if name in stage.processes]
    for process in found:
        if process.poll() is None:
            process.terminate()
    for process in found:
        children.stop(process, patience)
        if process.stdout is not None:
            process.stdout.close()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
