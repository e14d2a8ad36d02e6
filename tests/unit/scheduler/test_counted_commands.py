"""What a VM costs does not depend on how many others there are: commands, keys and bytes read, not times."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest
import redis

from scheduler.context import ControlContext
from scheduler.policies.requests import request_for_vms
from scheduler.runs.submit import submit_run
from scheduler.steps import do_step
from tests.benchmarks.fleet.memory_pool import MemoryPool, MemorySessions, Size
from tests.fleet_clock import disk_work
from workers.fleet import DiskWork, Ledger, Step
from workers.repository import Repository, Store, create_repository, load_private_keys, open_store
from workers.settings import Settings

SIZES = (100, 1000)
SAMPLE = 4
"""VMs that are planned and finished by real steps; as many as may be snapshotted at once."""


class CountedStore:
    """The real store, and how many bytes were read from it."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.read = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def get(self, key: str, limit: int) -> bytes:
        data = self._store.get(key, limit)
        self.read += len(data)
        return data


class LargeRun:
    """Of `vms` VMs the first few ask for their permit first; all others wait behind them, or stream."""

    def __init__(self, folder: Path, redis_url: str, client: redis.Redis, vms: int) -> None:
        client.flushall()
        self.client = client
        settings = Settings.model_validate(
            {
                "redis": {"url": redis_url},
                "repository": {"url": f"file://{folder}"},
                "pools": {"lab": {"url": "http://127.0.0.1:1", "username": "root", "password": "x"}},
            }
        )
        self._store = open_store(settings.repository)
        self.store = CountedStore(self._store)
        create_repository(self._store, settings.repository, encrypted=False, passphrase=None)
        keys = load_private_keys(self._store, settings.repository, lambda: "")
        repository = Repository.open(cast(Store, self.store), keys)
        pool = MemoryPool(Size(vms, storages=1, changed=False), repository.repository_id)
        pool.commit_earlier(repository, SAMPLE)
        self.ledger = Ledger.from_url(redis_url)
        self.ledger.found()
        self.context = ControlContext(settings, self.ledger, repository, "test")
        self.context.__dict__["sessions"] = cast(Any, MemorySessions(pool, settings.pool("lab")))
        names = [vm["name_label"] for vm in pool.tables["VM"].values()]
        self.run = submit_run(self.ledger, request_for_vms(settings, "lab", names))
        assert do_step(self.context, Step(self.run, "plan-run", ""))
        uuids = [vm.vm for vm in self.ledger.progress(self.run).vms]
        self.sample, self.late, self.others = uuids[:SAMPLE], uuids[SAMPLE], uuids[SAMPLE + 1 :]
        self.places = {"pool/lab": 4, f"sr/lab/{pool.storages[0].removeprefix('OpaqueRef:')}": 1}
        self._fill()

    def close(self) -> None:
        self.ledger.close()
        self._store.close()

    def plan(self, vm: str) -> bool:
        return do_step(self.context, Step(self.run, "plan-vm", vm))

    def finish(self, vm: str) -> None:
        assert do_step(self.context, Step(self.run, "finish-vm", vm))

    def _fill(self) -> None:
        holder = Step(self.run, "plan-vm", self.others[0])
        self.fence = self.ledger.claim_step(holder, "another")
        assert self.ledger.take_permit(holder, "lab", self.places)
        for vm in self.sample:
            assert not self.plan(vm), "it waits"
        half = len(self.others) // 2
        for number, vm in enumerate(self.others[1:half]):
            busy_host = {"pool/lab": 4, f"sr/lab/{number}": 1, "host/lab/busy": 1}
            places = busy_host if number % 2 else self.places
            held = self.ledger.take_permit(Step(self.run, "plan-vm", vm), "lab", places)
            assert held == (number == 1)
        self.ledger.set_host("lab", "host", 16)
        for vm in self.others[half:]:
            self.ledger.start_vm(self.run, vm, [self._disk(vm)])
        self.holder = holder

    def _disk(self, vm: str) -> DiskWork:
        work = disk_work(f"disk-of-{vm}", 1, vm=vm, hosts=("host",))
        return replace(work, run=self.run)

    def end_holder(self) -> None:
        assert self.fence is not None
        assert self.ledger.finish_step(self.holder, self.fence)


@pytest.fixture
def large_run(
    tmp_path: Path, redis_url: str, redis_client: redis.Redis
) -> Iterator[Callable[[int], LargeRun]]:
    made: list[LargeRun] = []

    def make(vms: int) -> LargeRun:
        folder = tmp_path / f"store-{vms}"
        folder.mkdir()
        made.append(LargeRun(folder, redis_url, redis_client, vms))
        return made[-1]

    yield make
    for each in made:
        each.close()


OUR_OWN = ("cmdstat_info", "cmdstat_config|resetstat", "cmdstat_script|load")
"""Commands of the count itself; and a script is sent once, when Redis does not know it yet."""


@contextmanager
def counted(client: redis.Redis) -> Iterator[Callable[[], int]]:
    """The commands that Redis did, those of scripts among them."""
    client.config_resetstat()

    def read() -> int:
        stats = client.info("commandstats")
        return sum(row["calls"] - row["failed_calls"] for name, row in stats.items() if name not in OUR_OWN)

    yield read


def keys_of(client: redis.Redis, call: Callable[[], object]) -> set[str]:
    """The keys that the call's scripts touched."""
    with client.monitor() as monitor:
        call()
        client.echo("done")
        keys = set()
        for seen in monitor.listen():
            words = seen["command"].split(" ")
            if words[0] == "ECHO":
                return keys
            if seen["client_type"] == "lua":
                keys.update(word for word in words[1:2] if word.startswith("cbtfleet:"))
    raise AssertionError("the monitor ended")


def test_commands_a_vm_that_is_planned_and_finished(large_run: Callable[[int], LargeRun]) -> None:
    counts = []
    for size in SIZES:
        run = large_run(size)
        row = []
        with counted(run.client) as read:
            assert not run.plan(run.late), "it waits behind all others"
            row.append(read())
        run.end_holder()
        for vm in run.sample:
            with counted(run.client) as read:
                assert run.plan(vm)
                row.append(read())
        for vm in run.sample:
            with counted(run.client) as read:
                run.finish(vm)
                row.append(read())
        counts.append(row)
    few, many = counts
    assert [more - less for less, more in zip(few, many, strict=True)] == [0] * len(few)
    assert max(few) < 300


def test_bytes_read_from_the_store_for_a_vm(large_run: Callable[[int], LargeRun]) -> None:
    """Once in a process they are more: the record of the run names all its VMs."""
    counts = []
    for size in SIZES:
        run = large_run(size)
        run.end_holder()
        row = []
        for work in (run.plan, run.finish):
            for vm in run.sample:
                before = run.store.read
                work(vm)
                row.append(run.store.read - before)
        counts.append(row)
    few, many = counts
    # times and numbers are written with more digits or fewer
    assert max(abs(more - less) for less, more in zip(few, many, strict=True)) < 64
    assert min(few) > 0


def test_keys_that_a_script_touches(large_run: Callable[[int], LargeRun]) -> None:
    counts = []
    for size in SIZES:
        run = large_run(size)
        ledger, vm = run.ledger, run.others[1]
        step = Step(run.run, "plan-vm", run.late)
        calls = {
            "take_permit, the last": partial(ledger.take_permit, step, "lab", run.places),
            "take_permit again": partial(ledger.take_permit, step, "lab"),
            "finish_step, which calls the next": run.end_holder,
            "due_steps": partial(ledger.due_steps, 1),
            "start_vm": partial(ledger.start_vm, run.run, vm, [run._disk(vm)]),
            "vm_disks": partial(ledger.vm_disks, run.run, vm),
            "finish_vm": partial(ledger.finish_vm, run.run, run.late),
            "sweep": ledger.sweep,
            "admit": partial(ledger.admit, 1),
        }
        counts.append({name: len(keys_of(run.client, call)) for name, call in calls.items()})
    few, many = counts
    assert few == many
    assert max(few.values()) < 20
