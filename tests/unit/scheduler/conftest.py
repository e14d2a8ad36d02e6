"""The control plane and the streams in this one process, on a simulated pool, a real Redis and a directory.

Nothing is published: the due steps and the grants are taken from the ledger and worked off here, one after
the other, which is what makes faults land where a test wants them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from infra.simulator import PoolSpec, SimulatedPool
from scheduler.context import ControlContext
from scheduler.hosts.host_count import HostCounter
from scheduler.policies.requests import request_for_vms
from scheduler.runs.facts import result_in_ledger
from scheduler.runs.submit import submit_run
from scheduler.runs.values import RunResult
from scheduler.steps import do_step
from workers.fleet import Ledger
from workers.nbd import Deadlines
from workers.repository import (
    PrivateKeys,
    Repository,
    Restored,
    create_repository,
    load_private_keys,
    open_store,
    restore_disk,
)
from workers.settings import Settings
from workers.stream.stream import StreamContext, run_stream
from workers.xenapi import Session, Sessions

PASSPHRASE = "a passphrase of the tests"


class Site:
    """One pool, one repository, one ledger."""

    def __init__(self, pool: SimulatedPool, settings: Settings, folder: Path) -> None:
        self.pool = pool
        self.settings = settings
        self.folder = folder
        self.store = open_store(settings.repository)
        self.keys: PrivateKeys = load_private_keys(self.store, settings.repository, lambda: PASSPHRASE)
        self.repository = Repository.open(self.store, self.keys)
        self.ledger = Ledger.from_url(settings.redis_url())
        self.ledger.found()
        self.context = ControlContext(settings, self.ledger, self.repository, "test")
        self.stream_context = StreamContext(
            settings=settings,
            ledger=self.ledger,
            store=self.store,
            keys=self.keys.metadata.worker,
            owner="node/1",
            sessions=Sessions(settings),
            deadlines=Deadlines(connect=5, handshake=5, read=5, close=5),
        )

    def close(self) -> None:
        self.log_out()
        self.ledger.close()
        self.store.close()

    def log_out(self) -> None:
        """As if both processes had had nothing to do for some minutes."""
        self.context.sessions.close()
        self.stream_context.sessions.close()

    @property
    def disks(self) -> list[str]:
        return [disk["vdi"] for vm in self.pool.vms() for disk in vm["disks"]]

    def submit(self, policy: str | None = None) -> str:
        """A new run. A run's name has its time, to the second; no two nights of ours share one."""
        newest = max((info.key.rsplit("/", 1)[1][:16] for info in self.store.list("points/")), default="")
        while datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ") <= newest:
            time.sleep(0.05)
        names = [vm["name"] for vm in self.pool.vms()]
        request = request_for_vms(self.settings, "lab", names)
        return submit_run(self.ledger, replace(request, policy=policy))

    def work(
        self,
        run: str,
        until: Callable[[str], bool] = lambda step: False,
        stop: Callable[[], bool] = lambda: False,
    ) -> RunResult | None:
        """Works off steps and grants until the run has ended, a step that `until` names is due, or `stop`."""
        for _ in range(200):
            if stop():
                return None
            result = result_in_ledger(self.ledger, run)
            if result is not None:
                return result
            self.ledger.node_alive("node", 4)
            self.ledger.sweep()
            self.count_hosts()
            for step in self.ledger.due_steps():
                if until(step.name):
                    return None
                do_step(self.context, step)
            for grant in self.ledger.admit():
                run_stream(self.stream_context, grant)
            self.ledger.wait_for_work(0.2)
        raise AssertionError(f"the run does not end: {self.ledger.progress(run)}")

    def count_hosts(self) -> None:
        """Every count that is due."""
        due = self.ledger.hosts_to_count()
        if due:
            with Session.login("lab", self.settings.pool("lab")) as session:
                counter = HostCounter(session, self.repository.repository_id)
                for host in due:
                    count = counter.count(host.host)
                    self.ledger.counted(host.pool, host.host, host.asked, count.plugged, count.others)

    def night(self) -> RunResult:
        result = self.work(self.submit())
        assert result is not None
        return result

    def restored(self, point: str | None, vdi: str | None) -> bytes:
        assert point is not None, "there is no restore point"
        [disk] = [disk for disk in self.repository.find_point(point).disks if disk.vdi == vdi]
        target = self.folder / "restored.raw"
        done: Restored = restore_disk(self.store, self.keys, disk, target, force=True, threads=2)
        assert done.bytes == target.stat().st_size
        return target.read_bytes()


@pytest.fixture
def make_site(tmp_path: Path, redis_url: str) -> Iterator[Callable[..., Site]]:
    with ExitStack() as stack:

        def make(spec: PoolSpec, *, encrypted: bool = False) -> Site:
            keys = {f"{kind}_key_file": tmp_path / kind for kind in ("public", "metadata", "private")}
            pool = stack.enter_context(SimulatedPool.start(spec, tmp_path / "pool"))
            (tmp_path / "store").mkdir()
            settings = Settings.model_validate(
                {
                    "redis": {"url": redis_url},
                    "repository": {"url": f"file://{tmp_path}/store", **(keys if encrypted else {})},
                    "pools": {
                        "lab": {
                            "url": pool.url,
                            "username": "root",
                            "password_file": pool.password_file,
                            "ca_file": pool.ca_file,
                            "timeout": 10,
                        }
                    },
                }
            )
            store = open_store(settings.repository)
            create_repository(store, settings.repository, encrypted=encrypted, passphrase=PASSPHRASE)
            store.close()
            site = Site(pool, settings, tmp_path)
            stack.callback(site.close)
            return site

        yield make
