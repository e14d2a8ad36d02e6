"""What all parts of one simulated pool share: records, contents, logs, faults, and waiting."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from infra.simulator.cbt import Logs
from infra.simulator.certificates import HostCertificate
from infra.simulator.database import Database
from infra.simulator.failures import Stopping
from infra.simulator.faults import Faults
from infra.simulator.log import ActivityLog
from infra.simulator.spec import PoolSpec, UserSpec
from infra.simulator.vdi_content import Content


@dataclass
class State:
    """Hold `lock` around database, contents, cbt and history; `wait_for` and `pause` let go of it."""

    spec: PoolSpec
    database: Database
    contents: dict[str, Content] = field(default_factory=dict)
    """By VDI reference; a VDI whose data are destroyed has none."""
    cbt: Logs = field(default_factory=Logs)
    history: dict[str, Content] = field(default_factory=dict)
    """By uuid: what each snapshot held, also when it is purged or gone. Tests compare with it."""
    certificates: dict[str, HostCertificate] = field(default_factory=dict)
    """By host reference: what XAPI serves and get_nbd_info tells."""
    users: dict[str, UserSpec] = field(default_factory=dict)
    faults: Faults = field(default_factory=Faults)
    log: ActivityLog = field(default_factory=ActivityLog)
    pool: str = ""
    hosts: list[str] = field(default_factory=list)
    unreachable: set[str] = field(default_factory=set)
    """Hosts that are alive in the database but do not answer the master."""
    booting: set[str] = field(default_factory=set)
    """Hosts whose xapi is up but not ready."""
    xapi_port: int = 0
    nbd_port: int = 0
    rolling_upgrade: bool = False
    clock_ahead: timedelta = timedelta(0)
    """How far the pool's clock is ahead of this machine's."""
    opened_vbds: set[str] = field(default_factory=set)
    """VBDs of control domains that an NBD server has open: they cannot be unplugged."""
    waiting: int = 0
    """Calls that wait for another operation to end."""
    threads: list[threading.Thread] = field(default_factory=list)
    stopping: bool = False

    @property
    def lock(self) -> threading.RLock:
        return self.database.lock

    @property
    def master(self) -> str:
        return str(self.database.get("pool", self.pool)["master"])

    def is_live(self, host: str) -> bool:
        metrics = self.database.get("host", host)["metrics"]
        return self.database.exists("host_metrics", metrics) and bool(
            self.database.get("host_metrics", metrics)["live"]
        )

    def now(self) -> datetime:
        """By the pool's own clock; XAPI's times have whole seconds."""
        return (datetime.now(UTC) + self.clock_ahead).replace(microsecond=0)

    def wait_for(self, ready: Callable[[], bool], seconds: float) -> bool:
        """Waits until `ready` or the time is up, without the lock. Raises Stopping."""
        deadline = time.monotonic() + seconds
        while not ready():
            if self.stopping:
                raise Stopping
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            self.database.changed.wait(min(left, 3600))
        return True

    def pause(self, seconds: float) -> None:
        if seconds > 0:
            self.wait_for(lambda: False, seconds)

    def start_thread(self, work: Callable[[], None], name: str) -> None:
        """A thread that `stop` waits for. It must end soon when `wait_for` raises Stopping."""
        thread = threading.Thread(target=work, name=name, daemon=True)
        with self.lock:
            self.threads = [old for old in self.threads if old.is_alive() or old.ident is None]
            self.threads.append(thread)
        thread.start()

    @contextmanager
    def waiting_call(self) -> Iterator[None]:
        self.waiting += 1
        try:
            yield
        finally:
            self.waiting -= 1

    def stop(self) -> None:
        with self.lock:
            self.stopping = True
            self.database.changed.notify_all()
        for thread in list(self.threads):
            thread.join()
