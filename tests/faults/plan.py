"""What a seed means: the pool, the fleet, the runs, and the faults with their times. A pure function."""

from __future__ import annotations

import random
from dataclasses import dataclass

KINDS = {
    "kill a stream process": 3,
    "kill a worker's parent": 2,
    "kill a worker node": 3,
    "stop a stream process for a moment": 2,
    "stop a stream process for long": 2,
    "stop a worker's parent for long": 1,
    "stop a worker node for a moment": 1,
    "stop a worker node for long": 2,
    "a worker joins": 1,
    "a worker leaves": 2,
    "a worker's machine loses its power": 2,
    "kill a scheduler": 3,
    "stop a scheduler for long": 1,
    "a second scheduler": 1,
    "restart Redis": 2,
    "kill Redis": 2,
    "empty Redis": 2,
    "pause Redis": 1,
    "Redis sleeps": 1,
    "kill Redis's clients": 2,
    "lose a stream message": 2,
    "lose a step message": 1,
    "double a stream message": 2,
    "double a step message": 1,
    "delay a stream message": 2,
    "restart a host": 2,
    "restart the master": 1,
    "restart a host's NBD service": 1,
    "a host frees its slots late": 3,
    "a host is a black hole": 2,
    "a host drops connections in the data": 2,
    "a host refuses exports": 1,
    "a stranger takes a host's connections": 1,
    "the store is away": 2,
    "cancel the run": 1,
}
"""What may happen, and how often compared with the others."""

PAUSES = {
    "stop a stream process for long",
    "stop a worker's parent for long",
    "stop a worker node for long",
}
"""Only these may make a connect of ours a host's 17th: a process that was stopped goes on where it was."""

BARRIERS = {"restart Redis", "kill Redis", "empty Redis"}
"""After these no slot is granted for a while, so none is missed either."""

STRANGER = "a stranger takes a host's connections"
"""Nor can we know of it before a connect of ours was turned away."""

MIB = 1 << 20
SIZES = (3 * MIB, 20 * MIB, 33 * MIB, 48 * MIB, 70 * MIB, 100 * MIB, (40 * MIB) + 512)
FILLS = ("mixed", "mixed", "text", "random", "zero")


@dataclass(frozen=True)
class Deed:
    """One fault: `at` seconds after its run was submitted; `dice` decides whom it strikes."""

    at: float
    kind: str
    dice: int


@dataclass(frozen=True)
class Disk:
    size: int
    fill: str


@dataclass(frozen=True)
class Vm:
    name: str
    host: int
    local: bool
    disks: tuple[Disk, ...]


@dataclass(frozen=True)
class Run:
    """`writes` blocks are written to each disk by its guest before the run; a read takes `slow` seconds
    longer, so that the run lasts about as long as faults strike."""

    writes: int
    slow: float
    deeds: tuple[Deed, ...]


@dataclass(frozen=True)
class Schedule:
    seed: int
    hosts: int
    cap: int
    limit: int
    """What a host takes: the cap, so that one too many is rejected, or 16, so that it shows in the peak."""
    nodes: int
    streams: int
    schedulers: int
    store: str
    redis: str
    encrypted: bool
    reclaim: str
    release_delay: float
    plug_delay: float
    time_scale: float
    vms: tuple[Vm, ...]
    runs: tuple[Run, ...]

    @property
    def kinds(self) -> list[str]:
        return [deed.kind for run in self.runs for deed in run.deeds]

    @property
    def pauses(self) -> bool:
        return bool(PAUSES & set(self.kinds))

    @property
    def may_be_rejected(self) -> bool:
        return self.pauses or STRANGER in self.kinds

    @property
    def flushes(self) -> bool:
        return "empty Redis" in self.kinds


WINDOW = (8.0, 5.0)
"""Seconds after a run's submission in which faults begin: of the full one, of the others."""


def draw(seed: int) -> Schedule:
    dice = random.Random(f"cbtfleet {seed}")
    # every kind is somebody's first fault, whatever the dice say of the others
    first = list(KINDS)[seed % len(KINDS)]
    hosts = dice.choice((2, 2, 3))
    cap = dice.choice((2, 3))
    vms = tuple(_vm(dice, number, hosts) for number in range(2))
    runs = []
    for number in range(dice.choice((2, 2, 3))):
        kinds = dice.choices(list(KINDS), list(KINDS.values()), k=dice.randint(2, 5))
        if number == 0:
            kinds[0] = first
        times = sorted(round(dice.uniform(0.3, WINDOW[number > 0]), 2) for _ in kinds)
        deeds = tuple(Deed(at, kind, dice.randrange(1 << 30)) for at, kind in zip(times, kinds, strict=True))
        writes = 0 if number == 0 else dice.randint(40, 700)
        runs.append(Run(writes, _slow(vms, hosts * cap, writes, WINDOW[number > 0]), deeds))
    drawn = {deed.kind for run in runs for deed in run.deeds}
    # A host that tells nobody what it still has plugged can be trusted only to be quick about it.
    quick = not drawn & {"a host frees its slots late", "a worker's machine loses its power", *PAUSES}
    reclaim = "quarantine" if quick and dice.random() < 0.2 else "confirmed"
    return Schedule(
        seed=seed,
        hosts=hosts,
        cap=cap,
        limit=cap if drawn & (PAUSES | {STRANGER}) else dice.choice((cap, cap, 16)),
        nodes=dice.choice((2, 2, 3)),
        streams=dice.randint(2, 4),
        schedulers=dice.choice((1, 1, 2)),
        store=dice.choice(("file", "file", "s3")),
        redis=dice.choice(("unix", "tcp")),
        encrypted=dice.random() < 0.7,
        reclaim=reclaim,
        release_delay=0.3 if reclaim == "quarantine" else dice.choice((0.1, 0.3, 1.5, 3.0)),
        plug_delay=dice.choice((0.0, 0.1, 0.4)),
        time_scale=0.2,
        vms=vms,
        runs=tuple(runs),
    )


def _slow(vms: tuple[Vm, ...], slots: int, writes: int, seconds: float) -> float:
    """With that a run takes about `seconds`: a read is a megabyte of a full one, and hardly more than a block
    of another. The largest disk alone may take half as long again."""
    reads = [writes or -(-disk.size // MIB) for vm in vms for disk in vm.disks]
    return round(min(seconds * min(slots, len(reads)) / sum(reads), seconds * 1.5 / max(reads)), 4)


def _vm(dice: random.Random, number: int, hosts: int) -> Vm:
    disks = tuple(Disk(dice.choice(SIZES), dice.choice(FILLS)) for _ in range(dice.randint(2, 4)))
    return Vm(f"vm{number + 1}", dice.randrange(hosts), number == 1 and dice.random() < 0.5, disks)
