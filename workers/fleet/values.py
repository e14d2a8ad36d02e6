"""The values that cross the ledger's interface. Sizes are in bytes, times in seconds since 1970."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal

from workers.records import Record

Mode = Literal["full", "incremental"]


@dataclass(frozen=True)
class DiskFacts(Record):
    """What a plan says of a disk, for who streams, finishes or shows it.

    `sr` is a uuid. `incremental_to` is the VDI snapshot (uuid) that the changes count from; `compared_with`
    the one whose restore point a full is compared with, block by block. `insecure`: it was planned for a
    network without TLS.
    """

    vm_name: str
    name: str
    userdevice: str
    sr: str
    mode: Mode
    reason: str | None
    changed_bytes: int
    incremental_to: str | None = None
    compared_with: str | None = None
    insecure: bool = False
    signature: str = ""
    """Of `DiskWork.order`, in hexadecimal digits: what a worker reads, the scheduler has signed."""


_COMPRESSED = b"\x00zlib\x00"
"""Begins facts that are kept compressed: no JSON does."""
_PLAIN = 1 << 16
"""Bytes of facts that are kept as they are. The result of a run of ten thousand VMs is some 10 MB, which
would keep Redis for 0.1 s each time."""


@dataclass(frozen=True)
class DiskWork:
    """One disk of one run: what there is to read, and which hosts can serve it.

    `disk` is the live VDI's uuid, `snapshot` the uuid of the VDI snapshot to read, `hosts` the uuids of the
    hosts that see it, `plan` the packed `workers.extents.Plan`. `weight` is the run's: a run of twice the
    weight gets twice the batches while others wait, and its disks share them evenly.

    The disk fails after `attempts` failed streams in a row, or `give_up_after` seconds of trouble, without a
    committed batch. `done` are batches whose packs are in the bucket already; `read_bytes` and
    `stored_bytes` are the sums over these.
    """

    run: str
    vm: str
    disk: str
    pool: str
    snapshot: str
    virtual_size: int
    batches: int
    hosts: tuple[str, ...]
    facts: DiskFacts
    weight: float = 1.0
    plan: bytes = field(default=b"", repr=False)
    attempts: int = 5
    give_up_after: float = 3600.0
    done: frozenset[int] = frozenset()
    read_bytes: int = 0
    stored_bytes: int = 0

    @property
    def order(self) -> bytes:
        """What decides whose bytes are read, and how: whoever can write to Redis must not."""
        size, insecure = str(self.virtual_size), str(self.facts.insecure)
        return "\0".join((self.run, self.vm, self.disk, self.pool, self.snapshot, size, insecure)).encode()


class Verdict(StrEnum):
    """What a stream does next. Below FENCE, the first one that is true is given."""

    FENCE = "FENCE"
    """The slot is no longer yours: cut the connection at once; nothing was counted."""
    CANCEL = "CANCEL"
    """The run was cancelled, or the ledger does not know it any more: stop, drop what you hold, release."""
    EMPTY = "EMPTY"
    """Nothing left to reserve for this disk: finish what you hold, then release."""
    DRAIN = "DRAIN"
    """Your node is stopping: finish what you hold, then release."""
    YIELD = "YIELD"
    """Your turn is over and another disk waits for it: finish what you hold, then release."""
    CONTINUE = "CONTINUE"
    """Read `batch`; without one you hold as many as a stream may, so commit first."""


@dataclass(frozen=True)
class Next:
    verdict: Verdict
    batch: int | None = None


class Outcome(StrEnum):
    """How a stream's connection ended."""

    CLEAN = "CLEAN"
    """Closed to EOF, or never opened."""
    BUSY = "BUSY"
    """Rejected before the greeting: the host serves as many clients as it can."""
    FAILED = "FAILED"
    """The host or the way to it failed: another attempt, perhaps on another host, may not."""
    LOST = "LOST"
    """The worker process died or lost its slot: that may be the disk's fault, so it is an attempt, but never
    the host's."""
    STORE_AWAY = "STORE_AWAY"
    """The store did not take a pack, XenAPI is away, or the worker's machine is at fault: neither the disk's
    nor the host's fault."""
    FATAL = "FATAL"
    """No attempt can succeed: the disk fails now."""


@dataclass(frozen=True)
class Slot:
    number: int
    state: Literal["FREE", "GRANTED", "OPENING", "HELD", "QUARANTINE"]
    owner: str
    disk: str
    run: str
    fence: int
    expires_in: float
    """Seconds until the state ends by itself, or the slot's rest is over; 0 for FREE and for a stuck one."""
    since: float
    """Seconds in its state; 0 for a slot that was never used."""
    stuck: bool
    """Its rest is over and the host still counts its connection; `free_slot` ends the wait."""


@dataclass(frozen=True)
class Host:
    pool: str
    host: str
    cap: int
    lowered: int
    """By how much the cap is lowered after rejected opens."""
    rejects: int
    circuit_left: float
    """Seconds until an open is tried again on a host whose opens failed or were rejected; 0: now."""
    used: int
    """Slots that are not free."""
    unaccounted: int
    """Connections of ours that the host still counts at its last count and no slot explains."""
    others: int
    """Connections of others at the last count."""
    waived: int
    """Connections that an operator told us not to wait for (`free_slot`)."""
    counted_ago: float | None
    """Seconds since the last count began; None: not counted since Redis may have forgotten something."""
    effective_cap: int
    """How many slots may be in use now: the cap, less what was lowered or is unaccounted for."""


@dataclass(frozen=True)
class HostToCount:
    """A host whose connections are to be counted; `asked` (ms on Redis's clock) goes back with the answer."""

    pool: str
    host: str
    asked: int


@dataclass(frozen=True)
class Waiting:
    """Disks that have something to read and no stream; `oldest`: the longest wait among them, in seconds."""

    disks: int
    oldest: float


@dataclass(frozen=True)
class Node:
    name: str
    processes: int
    busy: int
    draining: bool
    credentials: str = ""
    """Marks those that it has for the store, as it says itself; empty when it does not say."""


@dataclass(frozen=True)
class Swept:
    unclaimed: int
    """Grants that nobody claimed: their slots are free again."""
    lost: int
    """Slots whose holder stopped renewing: in quarantine, their batches returned."""
    freed: int
    """Slots whose quarantine is over."""
    nodes: int
    """Worker nodes that stopped reporting and hold no slot any more."""


@dataclass(frozen=True)
class DiskProgress:
    disk: str
    vm: str
    state: Literal["streaming", "complete", "failed", "cancelled"]
    batches: int
    done: int
    read_bytes: int
    stored_bytes: int
    started: float
    ended: float | None
    streams: int
    attempts: int
    """Failed streams in a row since the last committed batch."""
    error: str | None
    """Why it failed; while it streams, what went wrong last. If nothing did: why its facts cannot be read."""
    facts: DiskFacts | None


RunState = Literal["planning", "running", "ended"]
VmState = Literal["planning", "streaming", "finishing", "finished"]


@dataclass(frozen=True)
class VmProgress:
    vm: str
    state: VmState
    facts: bytes
    """As they were given to the ledger, which does not look into them."""


@dataclass(frozen=True)
class RunProgress:
    run: str
    state: RunState
    cancelled: bool
    created: float
    ended: float | None
    vms: list[VmProgress]
    disks: list[DiskProgress]


def read_disk_facts(packed: bytes | None, run: str, disk: str) -> DiskFacts:
    """Raises RecordUnreadable."""
    return DiskFacts.read(packed or b"", f"disk {disk} of run {run} in Redis")


def packed(facts: bytes) -> bytes:
    """As they are kept: large ones compressed."""
    return facts if len(facts) <= _PLAIN else _COMPRESSED + zlib.compress(facts, 1)


def unpacked(kept: bytes) -> bytes:
    if not kept.startswith(_COMPRESSED):
        return kept
    return zlib.decompress(kept.removeprefix(_COMPRESSED))
