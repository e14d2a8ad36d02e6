"""How the fleet shares: among disks, among runs, and with hosts that do not serve. All in virtual time."""

from __future__ import annotations

import random
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from statistics import mean

from tests.benchmarks.fleet.machine import ledger_in_virtual_time
from tests.benchmarks.fleet.simulation import HOST_RATE, POOL, STREAM_RATE, DiskLog, Does, Simulation
from tests.benchmarks.fleet.table import Row, jain
from tests.fleet_clock import FULL_DISK
from workers.fleet import DiskWork

JAIN_AIM, SLOWDOWN_AIM, REUSE_AIM = 0.98, 0.01, 50
HOSTS = tuple(f"host-{number:02}" for number in range(16))
PROCESSES = 32


@contextmanager
def simulation(hosts: dict[str, Does], processes: int, host_rate: float = HOST_RATE) -> Iterator[Simulation]:
    with ledger_in_virtual_time() as (ledger, clock, client):
        yield Simulation(ledger, clock, client, hosts, processes, host_rate)


def works(
    run: str,
    sizes: Iterable[int],
    *,
    hosts: Iterable[str] = HOSTS,
    weight: float = 1.0,
    prefix: str | None = None,
) -> list[DiskWork]:
    """Disks `<prefix>-000`, `<prefix>-001`, ... of so many batches."""
    prefix = prefix or run
    return [
        DiskWork(
            run=run,
            vm="vm",
            disk=f"{prefix}-{number:03}",
            pool=POOL,
            snapshot=f"snapshot-of-{prefix}-{number:03}",
            virtual_size=batches << 25,
            batches=batches,
            hosts=tuple(hosts),
            weight=weight,
            facts=FULL_DISK,
        )
        for number, batches in enumerate(sizes)
    ]


def all_serve(hosts: Iterable[str] = HOSTS) -> dict[str, Does]:
    return dict.fromkeys(hosts, Does.SERVE)


def done_by(disk: DiskLog, when: float) -> int:
    return bisect_right(disk.commits, when)


def bench_fairness(quick: bool) -> Iterator[Row]:
    rng = random.Random(5)
    sizes = [rng.randint(20, 60) if quick else rng.randint(100, 800) for _ in range(8 if quick else 96)]
    processes = 4 if quick else PROCESSES
    setting = f"{processes} processes, 16 hosts, {len(sizes)} disks of {min(sizes)}..{max(sizes)} batches"
    with simulation(all_serve(), processes) as fleet:
        fleet.start("run", works("run", sizes))
        fleet.run_until_finished(fleet.disks)
        end = max(disk.commits[-1] for disk in fleet.disks.values())
        for share in (0.25, 0.5):
            index = jain(
                [
                    done_by(disk, end * share)
                    for disk in fleet.disks.values()
                    if disk.commits[-1] > end * share
                ]
            )
            yield Row(
                f"Jain's index over a run's disks, at {share:.0%} of its time",
                f"{index:.3f}",
                f"{JAIN_AIM}" if share == 0.5 else "",
                index >= JAIN_AIM if share == 0.5 else None,
                setting,
            )
        yield _reuse("the same run", fleet)
        yield _opens(fleet)
    yield from _long_disks(quick)
    yield from _two_runs(quick)
    yield from _small_disk(quick)


def _long_disks(quick: bool) -> Iterator[Row]:
    """No more disks than processes: nothing makes a stream yield."""
    sizes = [80 if quick else 640] * (3 if quick else 24)
    with simulation(all_serve(), 4 if quick else PROCESSES) as fleet:
        fleet.start("run", works("run", sizes))
        fleet.run_until_finished(fleet.disks)
        yield _reuse(f"{len(sizes)} disks of {sizes[0]}, fewer than processes", fleet)


def _reuse(name: str, fleet: Simulation) -> Row:
    batches = sum(len(disk.commits) for disk in fleet.disks.values())
    reuse = batches / sum(disk.opens for disk in fleet.disks.values())
    return Row(f"batches per open, {name}", f"{reuse:.0f}", f"{REUSE_AIM}", reuse >= REUSE_AIM)


def _opens(fleet: Simulation) -> Row:
    host = max(fleet.most_opens[host] for host in fleet.hosts)
    disk = max(fleet.most_opens[disk] for disk in fleet.disks)
    return Row(
        "opens in progress at once, of a host / of a disk; connections of a host",
        f"{host} / {disk}; {fleet.most_connections}",
        "2 / 1; 16",
        host <= 2 and disk <= 1 and fleet.most_connections <= 16,
    )


def _two_runs(quick: bool) -> Iterator[Row]:
    """A run of many disks beside one of few: batches by the policies' weights, while both have work."""
    size, counts = (40, (8, 2)) if quick else (1200, (72, 12))
    for weights in ((1, 1), (1, 3)):
        with simulation(all_serve(), 4 if quick else PROCESSES) as fleet:
            served = dict.fromkeys(("many", "few"), 0)
            for run, count, weight in zip(served, counts, weights, strict=True):
                fleet.start(run, works(run, [size] * count, weight=weight))
            while served["few"] < size * counts[1] / 2:
                fleet.run(1.0)
                for run in served:
                    served[run] = sum(
                        len(disk.commits) for disk in fleet.disks.values() if disk.work.run == run
                    )
        index = jain([served["many"] / weights[0], served["few"] / weights[1]])
        yield Row(
            f"Jain's index over two runs of weight {weights[0]} and {weights[1]}",
            f"{index:.3f}",
            f"{JAIN_AIM}",
            index >= JAIN_AIM,
            f"{counts[0]} and {counts[1]} disks, {served['many']} and {served['few']} batches so far,"
            " half of the smaller run",
        )


def _small_disk(quick: bool) -> Iterator[Row]:
    """Every process reads a large disk, and more of them wait, when a small one comes."""
    with simulation(all_serve(), 4 if quick else PROCESSES) as fleet:
        fleet.start("large", works("large", [200 if quick else 2000] * (8 if quick else 96)))
        fleet.run(100)
        fleet.start("small", works("small", [4]))
        fleet.run_until_finished(["small-000"])
        small = fleet.disks["small-000"]
        alone = 2.0 + 4 * 0.32
        yield Row(
            "a disk of 4 batches beside 96 large ones: until its first batch, until its last",
            f"{small.commits[0] - small.started:.1f} s, {small.commits[-1] - small.started:.1f} s",
            note=f"alone it takes {alone:.1f} s; a turn is 64 batches or 60 s",
        )


def bench_bad_hosts(quick: bool) -> Iterator[Row]:
    """One host out of 16 with disks that only it sees; what its state costs the others' disks."""
    for processes in (8,) if quick else (8, 32, 128):
        without = _mean_batch(processes, None, quick)
        for does in (Does.NOT_ANSWER, Does.REJECT):
            slowdown = _mean_batch(processes, does, quick) / without - 1
            yield Row(
                f"one host of 16 {does.value}: slow-down of the others' disks, {processes} processes",
                f"{slowdown:+.2%}",
                "1 %",
                slowdown < SLOWDOWN_AIM,
                f"a batch is done after {without:.0f} s on average without it",
            )
    yield from _crash(quick)


def _mean_batch(processes: int, does: Does | None, quick: bool) -> float:
    """When the batches of 15 good hosts' disks are committed, on average, beside a host that does so.

    The hosts are faster than all their streams together: what is lost is lost with the processes, and not
    because streams happen to meet on a host.
    """
    hosts = HOSTS[:4] if quick else HOSTS
    bad = hosts[-1]
    behaviour = {host: Does.SERVE for host in hosts if host != bad}
    if does is not None:
        behaviour[bad] = does
    with simulation(behaviour, processes, host_rate=16 * STREAM_RATE) as fleet:
        local = [
            work
            for host in behaviour
            for work in works("run", [10 if quick else 150] * (2 if quick else 8), hosts=(host,), prefix=host)
        ]
        random.Random(3).shuffle(local)
        fleet.start("run", local)
        good = [disk for disk in fleet.disks if not disk.startswith(bad)]
        fleet.run_until_finished(good)
        return mean(when for disk in good for when in fleet.disks[disk].commits)


def _crash(quick: bool) -> Iterator[Row]:
    """A host that serves disks of a shared SR dies; the other hosts see them too."""
    when = 20.0 if quick else 60.0
    with simulation(all_serve(), 8 if quick else PROCESSES) as fleet:
        fleet.start("run", works("run", [100 if quick else 600] * (8 if quick else 48)))
        fleet.run(when)
        fleet.hosts[HOSTS[0]] = Does.NOT_ANSWER
        struck = [disk for disk in fleet.disks.values() if disk.read_from == HOSTS[0] and not disk.finished]
        fleet.run_until_finished(fleet.disks)
        gaps = [disk.commits[done_by(disk, when)] - when for disk in struck]
        yield Row(
            "a host crashes, its disks are on a shared SR: until they go on elsewhere",
            f"{min(gaps):.0f} .. {max(gaps):.0f} s",
            note=f"{len(struck)} disks; a stream is given up 60 s after the host's last answer; all finished",
        )
