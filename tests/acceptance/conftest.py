"""A whole fleet on loopback: simulated pool, Redis, a store, scheduler and workers, all real processes.

The store "s3" is moto's server, or the one that TEST_S3_ENDPOINT names (see tests/conftest.py).
"""

from __future__ import annotations

import hashlib
import json
import os
import select
import signal
import subprocess
import sys
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import FOREIGN_S3
from tests.failure_report import complaints, run_in_short
from tests.until import PATIENCE, until
from workers.repository import Repository, load_private_keys, open_store, restore_disk
from workers.settings import load_settings

PASSPHRASE = "correct horse battery staple"

LONG = 240.0
"""Seconds for what takes a run, or a command, some seconds on a machine that does nothing else."""


class Simulator:
    """The pool simulator in a process of its own, spoken to over its control port."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        with (folder / "stderr.log").open("wb") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "infra.simulator", "--folder", str(folder), *arguments],
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )
        assert self._process.stdout is not None
        ready, _, _ = select.select([self._process.stdout], [], [], PATIENCE)
        line = self._process.stdout.readline() if ready else ""
        assert line, (folder / "stderr.log").read_text()
        self.facts: dict[str, Any] = json.loads(line)

    @property
    def vms(self) -> list[dict[str, Any]]:
        return list(self.facts["vms"])

    @property
    def disks(self) -> list[str]:
        return [disk["vdi"] for vm in self.vms for disk in vm["disks"]]

    def get(self, path: str, **query: str) -> Any:
        with self._open(f"{path}?{urllib.parse.urlencode(query)}") as answer:
            return json.load(answer)

    def post(self, path: str, body: dict[str, Any]) -> Any:
        with self._open(path, json.dumps(body).encode()) as answer:
            return json.load(answer)

    def content_sha256(self, vdi: str) -> str:
        digest = hashlib.sha256()
        with self._open(f"/content?vdi={vdi}") as answer:
            while piece := answer.read(1 << 20):
                digest.update(piece)
        return digest.hexdigest()

    def content(self, vdi: str) -> bytes:
        """All bytes of a disk, or of what a snapshot held: also when its data, or itself, are gone."""
        with self._open(f"/content?vdi={vdi}") as answer:
            return bytes(answer.read())

    def _open(self, path: str, body: bytes | None = None) -> Any:
        request = urllib.request.Request(self.facts["control"].rstrip("/") + path, data=body)
        return urllib.request.urlopen(request, timeout=PATIENCE)

    def write(self, vdi: str, seed: int, blocks: int, kind: str = "random") -> set[int]:
        """Guest writes; returns the numbers of the blocks written."""
        answer = self.post("/write", {"vdi": vdi, "random": {"seed": seed, "blocks": blocks, "kind": kind}})
        return set(answer["blocks"])

    def leftovers(self) -> dict[str, Any]:
        return dict(self.get("/leftovers"))

    def stop(self) -> None:
        assert self._process.stdout is not None
        self._process.terminate()
        self._process.wait(PATIENCE)
        self._process.stdout.close()


@dataclass
class Fleet:
    """One installation: its configuration file, its processes, and the command line to drive it."""

    folder: Path
    simulator: Simulator
    config: Path
    environment: dict[str, str]
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def command(self, *arguments: str, timeout: float = LONG) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "scheduler.cli", "--config", str(self.config), *arguments],
            capture_output=True,
            text=True,
            timeout=timeout,
            env=self.environment,
        )

    def json(self, *arguments: str, expect: int = 0, timeout: float = LONG) -> dict[str, Any]:
        done = self.command(*arguments, "--json", timeout=timeout)
        assert done.returncode == expect, (
            f"exit {done.returncode}\n{done.stdout}\n{done.stderr}\n{self.report()}"
        )
        return dict(json.loads(done.stdout))

    def start(self, name: str, *arguments: str, by: Sequence[str] = ()) -> subprocess.Popen[bytes]:
        """`by`: a command that becomes it."""
        log = (self.folder / f"{name}.log").open("ab")
        process = subprocess.Popen(
            [*by, sys.executable, "-m", "scheduler.cli", "--config", str(self.config), *arguments],
            stdout=log,
            stderr=log,
            env=self.environment,
            start_new_session=True,
        )
        log.close()
        self.processes[name] = process
        return process

    def start_all(self, workers: int = 2, concurrency: int = 1) -> None:
        self.start("scheduler", "scheduler")
        for number in range(workers):
            self.start(f"worker{number}", "worker", "--concurrency", str(concurrency))

    def stop_all(self) -> None:
        for process in self.processes.values():
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        for process in self.processes.values():
            try:
                process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait(5)
        self.processes.clear()

    def logs(self) -> str:
        """All that its processes said."""
        return "\n".join(f"--- {path.name}\n{path.read_text()}" for path in sorted(self.folder.glob("*.log")))

    def report(self, result: Mapping[str, Any] | None = None) -> str:
        """For a test that fails: a run's result in short, each process's complaints, what it said last."""
        parts = [] if result is None else [run_in_short(result)]
        logs = {path.name: path.read_text() for path in sorted(self.folder.glob("*.log"))}
        for name, log in logs.items():
            parts += [f"--- {name}: complaints", *complaints(log)]
        parts += [f"--- {name}: the end\n{log[-2000:]}" for name, log in logs.items()]
        return "\n".join(parts)

    def backup(self, *vms: str, expect: int = 0, timeout: float = LONG) -> dict[str, Any]:
        names = vms or tuple(vm["name"] for vm in self.simulator.vms)
        options = [word for name in names for word in ("--vm", name)]
        return self.json("backup", "--pool", "lab", *options, "--wait", expect=expect, timeout=timeout)

    def restored_sha256(self, point: str, vdi: str) -> str:
        """By the command, as a person would."""
        target = self.folder / f"{point}-{vdi}.raw"
        self.json("restore", point, "--vdi", vdi, "--to", str(target))
        return self._digest(target)

    def restored_digests(self) -> dict[tuple[str, str], str]:
        """Every disk of every point, restored in this process: no start of a command for each."""
        settings = load_settings(self.config, self.environment)
        store = open_store(settings.repository)
        keys = load_private_keys(store, settings.repository, lambda: PASSPHRASE)
        digests = {}
        for point in Repository.open(store, keys).points():
            for disk in point.disks:
                target = self.folder / f"{point.id}-{disk.vdi}.raw"
                restore_disk(store, keys, disk, target, threads=2)
                digests[point.id, disk.vdi] = self._digest(target)
        store.close()
        return digests

    def _digest(self, target: Path) -> str:
        with target.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        target.unlink()
        return digest

    def wait_until(self, true: Callable[[], bool], timeout: float = LONG) -> None:
        """Polls a condition that no process announces."""
        until(true, timeout, report=self.report)


FleetMaker = Callable[..., Fleet]


@pytest.fixture
def s3_place(request: pytest.FixtureRequest) -> tuple[str, str]:
    """Endpoint and a fresh bucket; their credentials are in the environment."""
    kind = "foreign_s3" if os.environ.get(FOREIGN_S3) else "s3"
    return request.getfixturevalue(f"{kind}_endpoint"), request.getfixturevalue(f"{kind}_bucket")


@pytest.fixture
def make_fleet(tmp_path: Path, redis_url: str, s3_place: tuple[str, str]) -> Iterator[FleetMaker]:
    """Makes fleets: `make_fleet(store="s3" | "file", encrypted=True, simulator=[...], pool={...})`."""
    with ExitStack() as stack:

        def make(
            store: str = "s3",
            encrypted: bool = True,
            simulator: tuple[str, ...] = (),
            pool: dict[str, Any] | None = None,
            init: bool = True,
        ) -> Fleet:
            folder = tmp_path / "fleet"
            folder.mkdir()
            arguments = simulator or ("--hosts", "2", "--vms", "2", "--disks", "2", "--disk-size", "24MiB")
            simulated = Simulator(tmp_path / "pool", *arguments)
            stack.callback(simulated.stop)
            config = folder / "cbtfleet.toml"
            config.write_text(_toml(folder, store, *s3_place, redis_url, simulated.facts, pool or {}))
            environment = {
                **os.environ,
                "CBTFLEET_PASSPHRASE": PASSPHRASE,
                "PYTHONPATH": str(Path(__file__).parents[2]),
                "PYTHONUNBUFFERED": "1",
            }
            fleet = Fleet(folder, simulated, config, environment)
            stack.callback(fleet.stop_all)
            if store == "file":
                (folder / "store").mkdir()
            if init:
                fleet.json("init", *([] if encrypted else ["--unencrypted"]))
            return fleet

        yield make


def _toml(
    folder: Path,
    store: str,
    endpoint: str,
    bucket: str,
    redis_url: str,
    facts: dict[str, Any],
    pool: dict[str, Any],
) -> str:
    repository = (
        f'url = "s3://{bucket}/prod"\nendpoint_url = "{endpoint}"'
        if store == "s3"
        else f'url = "file://{folder}/store"'
    )
    settings = {
        "url": facts["url"],
        "username": facts["username"],
        "password_file": facts["password_file"],
        "ca_file": facts["ca_file"],
        **pool,
    }
    lines = "\n".join(f"{key} = {json.dumps(value)}" for key, value in settings.items())
    return f"""
[redis]
url = "{redis_url}"
[repository]
{repository}
public_key_file = "keys/public.key"
metadata_key_file = "keys/metadata.key"
private_key_file = "keys/private.key"
[pools.lab]
{lines}
[policies.nightly]
pool = "lab"
include = {{ names = ["*"] }}
"""
