"""What a large run takes of Redis's memory, and how long it takes to hand it over."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

from scheduler.policies.requests import RunRequest
from scheduler.runs.values import RunFacts
from tests.benchmarks.fleet.estate import Estate
from tests.benchmarks.fleet.machine import founded_ledger, own_redis, ping, timed
from tests.benchmarks.fleet.table import Row
from workers.fleet import Ledger
from workers.fleet.keys import KEYS

MEMORY_AIM, SUBMIT_AIM = 5e6, 2.0


def bench_memory(quick: bool) -> Iterator[Row]:
    estate = Estate(vms=20 if quick else 1000, pools=5, hosts_per_pool=8, plans=4 if quick else 40)
    with own_redis(durable=True) as server, founded_ledger(server.unix_url) as ledger:
        for pool, hosts in estate.hosts().items():
            for host in hosts:
                ledger.set_host(pool, host, 16)
        before = _used(server.client)
        seconds, disks, plans = _submit(ledger, estate)
        used = _used(server.client) - before
        kinds = _by_kind(server.client)
        yardstick = ping(server.unix_url, 50 if quick else 2000)
    batches = disks * estate.batches
    size = f"{batches:,} batches, {disks:,} disks, {estate.vms:,} VMs, 40 hosts"
    yield Row(f"Redis memory, {size}", _mb(used), "5 MB", used <= MEMORY_AIM, "used_memory, the difference")
    apart = used - kinds["plans"]
    yield Row(
        "of it without the plans",
        _mb(apart),
        "5 MB",
        apart <= MEMORY_AIM,
        f"{apart / disks:.0f} bytes a disk; a plan is {plans / disks:.0f} bytes packed",
    )
    for kind, size_of_kind in kinds.most_common():
        if size_of_kind >= 0.01 * used:
            yield Row(f"of it `{kind}`", _mb(size_of_kind), note="sum of MEMORY USAGE")
    yield Row(
        "submitting them: create_run, add_vms, start_vm for each VM",
        f"{seconds:.2f} s",
        "2 s",
        seconds <= SUBMIT_AIM,
        f"PING {yardstick}",
    )


def _submit(ledger: Ledger, estate: Estate) -> tuple[float, int, int]:
    """Seconds in the ledger's calls; disks; bytes of packed plans."""
    vms = list(estate.works("nightly-2026-01-01T00-00-00Z"))
    run = vms[0][2][0].run
    seconds = timed(ledger.create_run, run, RunFacts(RunRequest("pool-0"), "2026-01-01T00:00:00Z").write())[0]
    seconds += timed(ledger.add_vms, run, {vm: facts.write() for vm, facts, _ in vms})[0]
    seconds += sum(timed(ledger.start_vm, run, vm, works)[0] for vm, _, works in vms)
    works = [work for _, _, works in vms for work in works]
    return seconds, len(works), sum(len(work.plan) for work in works)


def _used(client: Any) -> int:
    """Bytes, once the buffers of connections and of the append-only file have been given back."""
    time.sleep(1.2)
    used: int = client.info("memory")["used_memory"] - client.info("memory")["mem_clients_normal"]
    return used


def _by_kind(client: Any) -> Counter[str]:
    names = sorted(KEYS, key=lambda name: -len(KEYS[name]))
    sizes: Counter[str] = Counter()
    keys = list(client.scan_iter(count=1000))
    for start in range(0, len(keys), 500):
        some = keys[start : start + 500]
        pipeline = client.pipeline(transaction=False)
        for key in some:
            pipeline.execute_command("MEMORY", "USAGE", key, "SAMPLES", 0)
        for key, size in zip(some, pipeline.execute(), strict=True):
            text = key.decode()
            sizes[next((name for name in names if text.startswith(KEYS[name])), text)] += size or 0
    return sizes


def _mb(size: float) -> str:
    return f"{size / 1e6:.2f} MB"
