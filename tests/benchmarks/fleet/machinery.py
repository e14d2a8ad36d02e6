"""Batches through the whole machinery with empty transfers: real Redis, pump, queue, worker node, grants.

this process: the scheduler's pump      empty_node: Celery parent, prefork processes
   sweep, admit, publish      ->  Redis  ->  claim, opened, take, commit ..., release
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from scheduler.pump import Pump
from tests.benchmarks.fleet.empty_node import HOSTS, VIRTUAL_SIZE
from tests.benchmarks.fleet.machine import OwnRedis, founded_ledger, own_redis, ping
from tests.benchmarks.fleet.table import Row, median_and_p99, percentile
from tests.fleet_clock import FULL_DISK
from workers.broker import celery_app
from workers.extents import Plan
from workers.fleet import DiskWork, Ledger, Limits
from workers.redis_address import RedisAddress
from workers.repository import create_repository, open_store
from workers.settings import Settings, load_settings

BATCHES_AIM, IDLE_AIM = 3000, 0.050
PROCESSES = 4


@dataclass(frozen=True)
class Load:
    disks: int
    batches: int

    def works(self) -> list[DiskWork]:
        plan = Plan.full(VIRTUAL_SIZE).pack()
        return [
            DiskWork(
                run="run",
                vm="vm",
                disk=f"disk-{number:04}",
                pool="lab",
                snapshot=f"snapshot-{number:04}",
                virtual_size=VIRTUAL_SIZE,
                batches=self.batches,
                hosts=tuple(HOSTS),
                facts=replace(FULL_DISK, name=f"disk {number}"),
                plan=plan,
            )
            for number in range(self.disks)
        ]


def bench_machinery(quick: bool) -> Iterator[Row]:
    """Long disks, whose streams work off one turn (64 batches), and short ones, a stream each."""
    for load in (Load(24, 4),) if quick else (Load(300, 320), Load(2000, 16)):
        is_long = load.batches >= Limits().quantum_batches
        with own_redis(durable=True) as server:
            seconds, journal = _work_off(server, load)
            yardstick = f"PING {ping(server.unix_url, 50 if quick else 2000)}"
        setting = f"{load.disks:,} disks of {load.batches} batches, {PROCESSES} processes"
        rate = load.disks * load.batches / seconds
        streams = sum(what == "claimed" for _, what, _ in journal)
        idle = idle_times(journal, PROCESSES)
        yield Row(
            f"batches a second, empty transfers, {setting}",
            f"{rate:,.0f}",
            f"{BATCHES_AIM:,}" if is_long else "",
            rate >= BATCHES_AIM if is_long else None,
            f"{streams / seconds:.0f} streams a second; {yardstick}",
        )
        yield Row(
            "idle time of a process while disks wait, the same",
            median_and_p99(idle),
            "p99 50 ms",
            percentile(idle, 0.99) <= IDLE_AIM,
            f"from a release to the claim that fills its place, {len(idle):,} times",
        )


def idle_times(journal: list[tuple[float, str, str]], processes: int) -> list[float]:
    """Seconds from each release to the claim that filled its place, while disks without a stream waited.

    A node runs `processes` streams at most: the first `processes` claims fill it, and of the others the k-th
    fills the place that the k-th release left. What follows the last claim for a disk without a stream are
    further streams of disks, which nobody waits for: these do not count.
    """
    claims = [when for when, what, _ in journal if what == "claimed"]
    releases = [when for when, what, _ in journal if what == "released"]
    streams: Counter[str] = Counter()
    last = 0.0
    for when, what, disk in journal:
        if what == "claimed" and not streams[disk]:
            last = when
        streams[disk] += 1 if what == "claimed" else -1
    return [
        claim - release for release, claim in zip(releases, claims[processes:], strict=False) if claim <= last
    ]


def _work_off(server: OwnRedis, load: Load) -> tuple[float, list[tuple[float, str, str]]]:
    """Seconds from the first claim to the last release, and what was claimed and released when."""
    settings_file, settings = _configuration(server)
    times = server.folder / "times"
    times.mkdir()
    with founded_ledger(server.unix_url) as ledger, _node(settings_file, times, ledger):
        for host in HOSTS:
            ledger.set_host("lab", host, 16)
        ledger.create_run("run", b"")
        ledger.add_vms("run", {"vm": b""})
        ledger.start_vm("run", "vm", load.works())
        pump = Pump(ledger, celery_app(RedisAddress.of(settings)))
        pump.start()
        try:
            while ledger.vm_state("run", "vm") == "streaming":
                time.sleep(0.1)
        finally:
            pump.stop()
        _wait_for_streams(ledger)
        progress = ledger.progress("run")
        bad = [disk for disk in progress.disks if disk.state != "complete"]
        if bad:
            raise SystemExit(f"{len(bad)} disks did not complete: {bad[0].error}")
    journal = sorted(_journal(times))
    claims = [when for when, what, _ in journal if what == "claimed"]
    return journal[-1][0] - claims[0], journal


def _wait_for_streams(ledger: Ledger) -> None:
    while any(node.busy for node in ledger.nodes()):
        time.sleep(0.01)


def _journal(folder: Path) -> Iterator[tuple[float, str, str]]:
    for path in folder.iterdir():
        for line in path.read_text().splitlines():
            what, when, disk = line.split(" ")
            yield float(when), what, disk


def _configuration(server: OwnRedis) -> tuple[Path, Settings]:
    """A repository without keys and a pool that nobody calls; the fleet's durations at a fifth.

    A slot rests 5 s after its stream, so that short streams would soon wait for slots and not for processes:
    real ones last a minute. At a fifth, 64 hosts have a free slot at any time.
    """
    store = server.folder / "store"
    store.mkdir()
    file = server.folder / "cbtfleet.toml"
    file.write_text(
        f'[redis]\nurl = "{server.unix_url}"\n'
        f'[repository]\nurl = "file://{store}"\n[fleet]\ntime_scale = 0.2\n'
        "[metrics]\nworker_port = 0\nscheduler_port = 0\n"
        '[pools.lab]\nurl = "http://127.0.0.1:1"\nusername = "nobody"\npassword = "none"\n'
    )
    settings = load_settings(file)
    create_repository(open_store(settings.repository), settings.repository, encrypted=False, passphrase=None)
    return file, settings


@contextmanager
def _node(settings_file: Path, times: Path, ledger: Ledger) -> Iterator[None]:
    """A worker node, from when the ledger knows it."""
    command = [sys.executable, "-m", "tests.benchmarks.fleet.empty_node", str(times)]
    command += ["--config", str(settings_file), "--concurrency", str(PROCESSES)]
    log = times.parent / "node.log"
    with log.open("wb") as output, subprocess.Popen(command, stdout=output, stderr=output) as process:
        try:
            while not ledger.nodes():
                if process.poll() is not None:
                    raise SystemExit(f"the worker node did not start:\n{log.read_text()}")
                time.sleep(0.05)
            yield
        finally:
            process.terminate()
