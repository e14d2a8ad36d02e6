"""The fleet under test: its configuration and its processes, each node and scheduler a session of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from tests.faults.plan import Schedule
from tests.faults.servers import BucketStore, FolderStore, Pool, RedisServer
from tests.source_tree import ROOT

PASSPHRASE = "correct horse battery staple"

POLICY = "nightly"


def configuration(schedule: Schedule, folder: Path, pool: Pool, redis: RedisServer, store: str) -> str:
    facts = pool.facts
    return f"""\
state_dir = "{folder}/state"
[redis]
url = "{redis.url}"
[repository]
{store}
public_key_file = "keys/public.key"
metadata_key_file = "keys/metadata.key"
private_key_file = "keys/private.key"
[pools.lab]
url = "{facts["url"]}"
username = "{facts["username"]}"
password_file = "{facts["password_file"]}"
ca_file = "{facts["ca_file"]}"
connections_per_host = {schedule.cap}
reclaim = "{schedule.reclaim}"
[policies.{POLICY}]
pool = "lab"
include = {{ names = ["*"] }}
[fleet]
time_scale = {schedule.time_scale}
[metrics]
worker_port = 0
scheduler_port = 0
"""


@dataclass
class Member:
    """A worker node or a scheduler: `process` is its parent and the leader of its session."""

    name: str
    process: subprocess.Popen[bytes]
    leaving: float | None = None
    """When it was asked to end, on the monotonic clock."""

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def children(self) -> list[int]:
        """The processes that it has forked, ascending by age."""
        task = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        with suppress(OSError):
            return [int(pid) for pid in task.read_text().split()]
        return []

    def busy_children(self, nbd_port: int) -> list[int]:
        """Those that have a connection to a host right now."""
        connected = _sockets_to(nbd_port)
        return [pid for pid in self.children() if connected & _sockets_of(pid)]

    def send(self, number: signal.Signals, pid: int | None = None) -> bool:
        """To one process, by default the parent; False when it is gone."""
        try:
            os.kill(pid or self.process.pid, number)
        except ProcessLookupError:
            return False
        return True

    def send_all(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)

    def remains(self) -> list[int]:
        """The processes of its session that live."""
        found = []
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            with suppress(OSError):
                rest = (entry / "stat").read_text().rpartition(")")[2].split()
                if int(rest[3]) == self.process.pid and rest[0] not in "ZX":
                    found.append(int(entry.name))
        return found


def _sockets_to(port: int) -> set[str]:
    """The inodes of this machine's established connections to a port (proc(5), net/tcp)."""
    found = set()
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[2].endswith(f":{port:04X}") and fields[3] == "01":
            found.add(fields[9])
    return found


def _sockets_of(pid: int) -> set[str]:
    found = set()
    with suppress(OSError):
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(OSError):
                target = os.readlink(descriptor)
                if target.startswith("socket:["):
                    found.add(target[8:-1])
    return found


@dataclass
class Fleet:
    schedule: Schedule
    folder: Path
    pool: Pool
    redis: RedisServer
    store: FolderStore | BucketStore
    began: float = 0.0
    """On the monotonic clock; the timeline counts from there."""
    members: list[Member] = field(default_factory=list)
    started: int = 0

    @property
    def config(self) -> Path:
        return self.folder / "cbtfleet.toml"

    @property
    def environment(self) -> dict[str, str]:
        return {
            **os.environ,
            **self.store.environment,
            "CBTFLEET_PASSPHRASE": PASSPHRASE,
            "PYTHONPATH": str(ROOT),
            "PYTHONUNBUFFERED": "1",
        }

    def command(self, *arguments: str, timeout: float = 60) -> subprocess.CompletedProcess[str]:
        """`cbtfleet ...`, to its end; what it says goes into a log."""
        done = subprocess.run(
            [sys.executable, "-m", "scheduler.cli", "--config", str(self.config), *arguments],
            capture_output=True,
            text=True,
            timeout=timeout,
            env=self.environment,
            cwd=self.folder,
        )
        with (self.folder / "commands.log").open("a") as log:
            log.write(f"$ cbtfleet {' '.join(arguments)}: {done.returncode}\n{done.stdout}{done.stderr}\n")
        return done

    def start(self, kind: str) -> Member:
        """`kind`: scheduler or worker."""
        self.started += 1
        name = f"{kind}-{self.started}"
        arguments = [kind] if kind == "scheduler" else [kind, "--concurrency", str(self.schedule.streams)]
        with (self.folder / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "scheduler.cli", "--config", str(self.config), *arguments],
                stdout=log,
                stderr=log,
                env=self.environment,
                cwd=self.folder,
                start_new_session=True,
            )
        with (self.folder / "sessions").open("a") as sessions:
            sessions.write(f"{process.pid}\n")
        member = Member(name, process)
        self.members.append(member)
        return member

    def of(self, kind: str) -> list[Member]:
        """Those that live and were not asked to end."""
        return [
            member
            for member in self.members
            if member.name.startswith(kind) and member.alive and member.leaving is None
        ]

    def ask_to_end(self, member: Member) -> None:
        member.leaving = time.monotonic()
        member.send(signal.SIGTERM)

    def kill_all(self) -> None:
        for member in self.members:
            member.send_all(signal.SIGKILL)
            for pid in member.remains():
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            member.process.wait(10)
