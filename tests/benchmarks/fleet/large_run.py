"""What a run of ten thousand VMs costs Redis, call by call, by its own clock: it does one at a time."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from scheduler.runs.values import ResultRow, planned_row
from tests.benchmarks.fleet.estate import Estate, submit
from tests.benchmarks.fleet.machine import founded_ledger, own_redis, timed
from tests.benchmarks.fleet.table import Row, median_and_p99, percentile
from tests.run_records import run_result
from workers.fleet import DiskWork, Ledger, Step

LONGEST = 0.050
"""Seconds that one script may keep Redis from the streams."""
FLAT = 0.001
"""Seconds of a call that concerns one VM, however many others there are."""


@dataclass(frozen=True)
class Scripts:
    """What scripts took of Redis, by its own clock, in seconds."""

    calls: int
    together: float
    longest: float

    @property
    def mean(self) -> float:
        return self.together / max(1, self.calls)


@contextmanager
def watched(client: Any) -> Iterator[Callable[[], Scripts]]:
    """Counts the scripts that run from now on. A log of all commands would cost more than they do, so only
    those of a millisecond and more are known one by one."""
    client.config_set("slowlog-max-len", 10_000)
    client.config_set("slowlog-log-slower-than", 1000)
    client.slowlog_reset()
    client.config_resetstat()

    def read() -> Scripts:
        stats = client.info("commandstats").get("cmdstat_evalsha", {"calls": 0, "usec": 0})
        mean = stats["usec"] / max(1, stats["calls"])
        long = [row["duration"] for row in client.slowlog_get(10_000) if row["command"].startswith(b"EVAL")]
        return Scripts(stats["calls"], stats["usec"] / 1e6, max(long, default=mean) / 1e6)

    yield read


def bench_permits(quick: bool) -> Iterator[Row]:
    """A pool of 16 hosts and 20 storages, two disks a VM; 4 permits a pool, 1 a storage, 2 a host."""
    times = 5 if quick else 400
    with own_redis(durable=True) as server:
        for waiting in (10, 40) if quick else (250, 1000, 4000, 10_000):
            with founded_ledger(server.unix_url) as ledger:
                line = _Line(ledger, waiting + times)
                line.ask(range(waiting))
                newcomers = range(waiting, waiting + times)
                for name, calls in (
                    ("take_permit for the first time", partial(line.ask, newcomers)),
                    ("take_permit again", partial(line.ask, newcomers, again=True)),
                    ("the end of a permit and the begin of the next", partial(line.go_on, times)),
                ):
                    with watched(server.client) as read:
                        calls()
                        scripts = read()
                    yield Row(
                        f"{name}, with the step's other calls, {waiting:,} VMs wait",
                        f"{scripts.together / times * 1e3:.2f} ms",
                        f"{FLAT * 1e3:.0f} ms",
                        scripts.together / times <= FLAT,
                        f"of Redis; {scripts.calls / times:.1f} scripts",
                    )


class _Line:
    """`plan-vm` steps of one run, by number."""

    def __init__(self, ledger: Ledger, vms: int) -> None:
        self._ledger = ledger
        self._rng = random.Random(3)
        self._holders: dict[Step, int] = {}
        ledger.create_run("run", b"")
        ledger.add_vms("run", {f"vm-{number}": b"" for number in range(vms)})

    def ask(self, vms: range, *, again: bool = False) -> None:
        for vm in vms:
            step = Step("run", "plan-vm", f"vm-{vm}")
            fence = self._ledger.claim_step(step, "scheduler")
            assert fence is not None
            if self._ledger.take_permit(step, "pool", None if again else self._places()):
                self._holders[step] = fence
            else:
                self._ledger.put_off_step(step, fence, 3600)

    def _places(self) -> dict[str, int]:
        storages = self._rng.sample(range(20), 2)
        host = self._rng.randrange(16)
        return {"pool/pool": 4, f"host/pool/{host}": 2, **{f"sr/pool/{each}": 1 for each in storages}}

    def go_on(self, times: int) -> None:
        """So many steps end, and whoever is called begins."""
        for _ in range(times):
            step, fence = next(iter(self._holders.items()))
            del self._holders[step]
            self._ledger.finish_step(step, fence)
            for due in self._ledger.due_steps(4):
                claimed = self._ledger.claim_step(due, "scheduler") if due.name == "plan-vm" else None
                if claimed is not None and self._ledger.take_permit(due, "pool"):
                    self._holders[due] = claimed


def bench_large_run(quick: bool) -> Iterator[Row]:
    """What is asked for one VM, and each call that concerns a whole run."""
    with own_redis(durable=True) as server:
        for disks in (30, 60) if quick else (2000, 8000, 30_000):
            with founded_ledger(server.unix_url) as ledger:
                estate = Estate(vms=disks // 3, plans=1, batches=1)
                submit(ledger, "run", estate)
                yield from _one_vm(ledger, disks, estate)
                if disks == (60 if quick else 30_000):
                    yield from _whole_run(ledger, server.client, estate)


def _one_vm(ledger: Ledger, disks: int, estate: Estate) -> Iterator[Row]:
    vms = [vm for vm, _, _ in estate.works("run")]
    seconds = [timed(ledger.vm_disks, "run", vm)[0] for vm in vms[:: max(1, len(vms) // 300)]]
    yield Row(
        f"vm_disks of a VM with 3 disks, {disks:,} disks in the run, seen by the caller",
        median_and_p99(seconds),
        f"median {FLAT * 1e3:.1f} ms",
        percentile(seconds, 0.5) <= FLAT,
    )
    whole = min(timed(ledger.progress, "run")[0] for _ in range(3))
    yield Row(f"progress of the whole run, {disks:,} disks, the same", f"{whole:.2f} s")


def _whole_run(ledger: Ledger, client: Any, estate: Estate) -> Iterator[Row]:
    """The calls of a run's life, in this order; the longest script of each."""
    vms = {vm: facts.write() for vm, facts, _ in estate.works("run")}
    rows = {vm: tuple(_row(work) for work in works) for vm, _, works in estate.works("run")}
    finished = {vm: replace(facts, rows=rows[vm]).write() for vm, facts, _ in estate.works("run")}
    result = run_result(disks=tuple(row for some in rows.values() for row in some)).write()
    ledger.node_alive("node", 10_000)

    def finish_all() -> None:
        for vm, facts in finished.items():
            ledger.finish_vm("run", vm, facts)

    ledger.create_run("next", b"")
    calls: list[tuple[str, Callable[[], Any]]] = [
        ("add_vms", lambda: ledger.add_vms("next", vms)),
        ("due_steps", ledger.due_steps),
        ("sweep", ledger.sweep),
        ("admit", ledger.admit),
        ("cancel", lambda: ledger.cancel("run")),
        ("finish_vm of each VM", finish_all),
        ("set_run_facts with the result", lambda: ledger.set_run_facts("run", result)),
        ("end_run", lambda: ledger.end_run("run", result)),
    ]
    for name, call in calls:
        with watched(client) as read:
            call()
            scripts = read()
        yield Row(
            f"{name}, {len(vms):,} VMs with 3 disks: its longest script",
            f"{scripts.longest * 1e3:.1f} ms",
            f"{LONGEST * 1e3:.0f} ms",
            scripts.longest <= LONGEST,
            f"{scripts.calls:,} scripts, {scripts.together:.2f} s together",
        )


def _row(work: DiskWork) -> ResultRow:
    numbers = {"read_bytes": 1 << 30, "stored_bytes": 400_000_000, "bytes_per_second": 17_530_000}
    row = planned_row(work.vm, work.disk, work.facts)
    return replace(row, seconds=61.25, point=work.snapshot[:12], **numbers)
