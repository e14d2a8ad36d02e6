"""A night of the fleet in virtual time: made-up hosts, nodes and streams around the real ledger.

Every decision is made by the ledger's real Lua on a real Redis, whose clock is moved from event to event.
Made up are the durations below, and what a host does with an open.

    pump --admit--> queue --> idle process --claim--> open --opened--> batch, batch ... --> close --> release
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections import Counter, deque
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from tests.fleet_clock import START, Clock
from workers.fleet import DiskWork, Grant, Ledger, Outcome, Verdict
from workers.fleet.keys import KEYS

POOL = "lab"
BATCH_MIB = 32
HOST_RATE = 300.0
"""MiB/s of one host, shared by its streams."""
STREAM_RATE = 100.0
"""MiB/s of a stream that has enough of its host."""
OPEN = 2.0
"""Seconds of an open: the host plugs a VBD."""
CLOSE = 0.2
REJECT = 0.05
QUEUE = 0.005
"""Seconds from `admit` to the claim."""
PUMP = 1.0
"""The pump's longest wait between two looks."""
GREETING = 10.0
"""Seconds after which a worker gives up an open on a host that does not answer."""
READ = 60.0
"""Seconds after which it gives up a stream on a host that answers no more."""

Process = Iterator[float]
"""A generator that yields the seconds until it goes on."""


class Does(Enum):
    SERVE = "serves"
    NOT_ANSWER = "does not answer"
    REJECT = "rejects every open: somebody else holds its connections"


@dataclass
class DiskLog:
    """What became of one disk, in seconds since the simulation began."""

    work: DiskWork
    started: float
    commits: list[float] = field(default_factory=list)
    opens: int = 0
    read_from: str = ""

    @property
    def finished(self) -> bool:
        return len(self.commits) == self.work.batches


@dataclass
class _Node:
    name: str
    concurrency: int
    spare: int
    idle: int
    streams: list[Grant] = field(default_factory=list)


class Simulation:
    def __init__(
        self,
        ledger: Ledger,
        clock: Clock,
        client: Any,
        hosts: dict[str, Does],
        processes: int,
        host_rate: float = HOST_RATE,
    ) -> None:
        self._ledger = ledger
        self._clock = clock
        self._client = client
        self.hosts = hosts
        self._host_rate = host_rate
        self.disks: dict[str, DiskLog] = {}
        self.most_opens: Counter[str] = Counter()
        """The most opens that were in progress at once, by host and by disk."""
        self.most_connections = 0
        self._opens: Counter[str] = Counter()
        self._connections: Counter[str] = Counter()
        self._reading: Counter[str] = Counter()
        self._rng = random.Random(7)
        self._events: list[tuple[float, int, Process]] = []
        self._order = itertools.count()
        self._queue: deque[Grant] = deque()
        self._nodes = [_node(0, processes - processes // 2), _node(1, processes // 2)]
        for host in hosts:
            ledger.set_host(POOL, host, 16)
        self.begin(self._heartbeat())
        self.begin(self._pump())

    @property
    def now(self) -> float:
        return self._clock.now - START

    def begin(self, process: Process, after: float = 0.0) -> None:
        heapq.heappush(self._events, (self.now + after, next(self._order), process))

    def start(self, run: str, works: list[DiskWork]) -> None:
        self._ledger.create_run(run, b"")
        self._ledger.add_vms(run, {"vm": b""})
        self._ledger.start_vm(run, "vm", works)
        self.disks |= {work.disk: DiskLog(work, self.now) for work in works}
        self._look()

    def run(self, seconds: float) -> None:
        """Moves time on by so much."""
        end = self.now + seconds
        while self._events[0][0] <= end:
            when, _, process = heapq.heappop(self._events)
            self._clock.advance(max(0.0, when - self.now))
            pause = next(process, None)
            if pause is not None:
                self.begin(process, pause)
        self._clock.advance(end - self.now)

    def run_until_finished(self, disks: Iterable[str], limit: float = 20_000.0) -> None:
        """Moves time on until each of these disks has committed its last batch."""
        while not all(self.disks[disk].finished for disk in disks):
            if self.now > limit:
                raise SystemExit(f"some disks did not finish in {limit:.0f} s of virtual time")
            self.run(1.0)

    # -- the scheduler and the nodes

    def _pump(self) -> Process:
        while True:
            self._look()
            yield PUMP

    def _look(self) -> None:
        self._ledger.sweep()
        for grant in self._ledger.admit():
            self.begin(self._message(grant), QUEUE)

    def _look_if_woken(self) -> None:
        if self._client.lpop(KEYS["wake"]):
            self._look()

    def _heartbeat(self) -> Process:
        while True:
            for node in self._nodes:
                if node.concurrency:
                    self._ledger.node_alive(node.name, node.concurrency, node.spare)
                self._ledger.renew(node.streams)
            yield self._ledger.timing.renew_every

    def _message(self, grant: Grant) -> Process:
        self._queue.append(grant)
        self._hand_out()
        yield from ()

    def _hand_out(self) -> None:
        """To whichever node pops first: the one with most idle processes."""
        while self._queue:
            node = max(self._nodes, key=lambda node: node.idle)
            if not node.idle:
                return
            node.idle -= 1
            self.begin(self._stream(node, self._queue.popleft()))

    # -- one stream

    def _stream(self, node: _Node, grant: Grant) -> Process:
        work = self._ledger.claim(grant, node.name)
        if work is not None:
            node.streams.append(grant)
            outcome = yield from self._connection(grant)
            node.streams.remove(grant)
            self._ledger.release(grant, outcome, None if outcome is Outcome.CLEAN else outcome.lower())
        node.idle += 1
        self._look_if_woken()
        self._hand_out()

    def _connection(self, grant: Grant) -> Generator[float, None, Outcome]:
        host, disk = grant.host, self.disks[grant.disk]
        self._connections[host] += 1
        self.most_connections = max(self.most_connections, self._connections[host])
        outcome = yield from self._open(host, grant.disk)
        if outcome is Outcome.CLEAN and self._ledger.opened(grant):
            disk.opens += 1
            disk.read_from = host
            self._look_if_woken()
            self._reading[host] += 1
            outcome = yield from self._batches(grant, disk)
            self._reading[host] -= 1
        self._connections[host] -= 1
        return outcome

    def _open(self, host: str, disk: str) -> Generator[float, None, Outcome]:
        for place in (host, disk):
            self._opens[place] += 1
            self.most_opens[place] = max(self.most_opens[place], self._opens[place])
        if self.hosts[host] is Does.REJECT:
            yield REJECT
            outcome = Outcome.BUSY
        elif self.hosts[host] is Does.NOT_ANSWER:
            yield GREETING
            outcome = Outcome.FAILED
        else:
            yield OPEN
            outcome = Outcome.CLEAN
        for place in (host, disk):
            self._opens[place] -= 1
        return outcome

    def _batches(self, grant: Grant, disk: DiskLog) -> Generator[float, None, Outcome]:
        following = self._ledger.take(grant)
        while following.verdict is Verdict.CONTINUE and following.batch is not None:
            yield self._seconds_of_a_batch(grant.host)
            if self.hosts[grant.host] is Does.NOT_ANSWER:
                yield READ
                return Outcome.FAILED
            following = self._ledger.commit(grant, following.batch, 1, 1)
            if following.verdict is not Verdict.FENCE:
                disk.commits.append(self.now)
        yield CLOSE
        return Outcome.CLEAN

    def _seconds_of_a_batch(self, host: str) -> float:
        rate = min(STREAM_RATE, self._host_rate / self._reading[host])
        return BATCH_MIB / rate * self._rng.uniform(0.8, 1.2)


def _node(number: int, concurrency: int) -> _Node:
    spare = max(1, concurrency // 8) if concurrency else 0
    return _Node(f"node-{number}", concurrency, spare, concurrency + spare)
