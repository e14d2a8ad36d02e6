"""Every duration and every limit of the fleet, each in one place and with its reason.

`Timing` is in seconds; `Limits` are counts. Both are baked into the Lua scripts, so all processes of one
fleet must run with the same values. How the durations depend on each other is checked when a `Timing` is
made: a bounded model check of the slot machine found a violation for each of these rules left out.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Timing:
    grant: float = 15.0
    """GRANTED until claimed. Longer than a message waits when no more grants are out than idle processes;
    a lost message costs this long once."""

    lease: float = 30.0
    """L: OPENING and HELD without news from the holder. Six renewals may fail before it runs out."""

    renew_every: float = 5.0
    """How often a worker node renews all its slots in one call."""

    cut_after: float = 20.0
    """F: a holder cuts its own socket so long after the *send* time of its last answered renew (monotonic
    clock). F <= L, so its connection ends before its slot can be given away."""

    quarantine: float = 30.0
    """Q: a slot whose holder vanished, was rejected or failed stays empty so long: the host frees its side
    (VBD unplug and destroy) late, and nobody saw the connection end."""

    linger: float = 5.0
    """A slot whose connection was closed to EOF stays empty so long: the host's own count falls only after
    VBD unplug, up to seconds after the close."""

    barrier: float = 60.0
    """B: no new grant so long after Redis restarted, failed over or was emptied, while the holders that
    Redis forgot re-assert their slots. At least L + Q; add the replication lag when there are replicas."""

    node: float = 15.0
    """A worker node that has not called `node_alive` for so long counts as gone: three missed calls."""

    quantum: float = 300.0
    """A stream keeps its connection so long before it must yield to disks that have none, unless it had its
    `Limits.quantum_batches` sooner: an open costs the host a VBD plug (seconds). Long enough for 50 batches
    at 6 s each."""

    ask_every: float = 1.0
    """How often a stream whose turn is over looks for disks that wait: looking reads their hosts' slots,
    and a stream may commit ten batches a second."""

    retry_first: float = 2.0
    """Back-off of a disk after its first failed stream; doubles with every further one."""

    retry_longest: float = 60.0
    """The longest back-off of a disk: about the time a host needs to come back from a toolstack restart."""

    cap_recovery: float = 300.0
    """A host's lowered cap rises by one so often: whoever else uses its connections (another backup tool)
    holds them for minutes."""

    circuit: float = 60.0
    """No opens so long on a host that rejects although we hold nothing there, or whose opens failed
    `Limits.failures_to_close` times in a row; for the latter doubled with each further failure. About the
    time a toolstack restart takes."""

    circuit_longest: float = 300.0
    """The longest time for which a host stays closed, however often its opens failed."""

    slow_open: float = 3.0
    """An open that takes longer waits for a host that is slow or gone: its process does not count as one of
    its node's streams until it is through."""

    count_every: float = 1.0
    """A host is counted so often while a slot there waits for it: a slot that rests is a slot unused."""

    count_unexplained: float = 5.0
    """A host is counted so often while all that is looked for is connections that no slot explains: those of
    a vanished peer stay until xapi-nbd restarts."""

    count_retry: float = 600.0
    """A pool that cannot be counted is asked again so often: somebody may have given us the permission."""

    step_lease: float = 60.0
    """A claimed control step without news from its claimant. Renew it every 20 s."""

    step_republish: float = 5.0
    """A published control step that nobody claimed is published again: its message was lost or is queued."""

    permit_wait: float = 120.0
    """A step that was called and has not begun for so long loses its permit and its place in the line: places
    are kept for it that others wait for. It may stand in the queue behind steps that wait for their pool."""

    keep_ended: float = 7 * 86400.0
    """Ended runs stay in Redis so long, for `cbtfleet runs` and `status`; their result is in the bucket."""

    abandoned_open: float = 10.0
    """An open whose stream died counts as one in progress so long: the host goes on plugging the disk for a
    client that is gone, which takes seconds, and two opens of one disk race in its storage manager."""

    def __post_init__(self) -> None:
        rules = {
            "renew_every x 2 < cut_after": self.renew_every * 2 < self.cut_after,
            "cut_after <= lease": self.cut_after <= self.lease,
            "barrier >= lease + quarantine": self.barrier >= self.lease + self.quarantine,
            "barrier >= grant": self.barrier >= self.grant,
            "linger <= quarantine": self.linger <= self.quarantine,
        }
        broken = [rule for rule, kept in rules.items() if not kept]
        if broken:
            raise ValueError(f"unsafe timing: {', '.join(broken)} does not hold")

    def scaled(self, factor: float) -> Timing:
        """Every duration `factor` times as long; the rules above hold as before."""
        return Timing(**{name: seconds * factor for name, seconds in asdict(self).items()})


@dataclass(frozen=True)
class Limits:
    opens_per_host: int = 2
    """GRANTED and OPENING slots of a host at once: each open is a VBD plug in its control domain.
    Of a disk it is always one: parallel opens of one disk raced in the storage manager."""

    reserve: int = 3
    """Batches a stream may hold: one being read, one sealed, one uploaded (96 MiB of disk to do again)."""

    quantum_batches: int = 64
    """The other end of a stream's turn: 64 batches are 2 GiB."""

    batches_per_extra_stream: int = 4
    """A further stream of a disk must find so many batches for each stream, or its open does not pay."""

    spare_grants: float = 0.1
    """Grants published beyond the idle processes, as a share of them: hides the queue's latency."""

    rejects_to_open: int = 5
    """Rejected opens in a row, while we hold nothing on the host, before its circuit opens."""

    failures_to_close: int = 3
    """Failures of a host in a row, without any success there, before its circuit opens: one is the network's
    bad moment, three cost one process some seconds each."""

    vms_at_once: int = 50
    """VMs, with their disks, that one script goes through: Redis does nothing else meanwhile, and to end 150
    disks takes some 10 ms."""

    lag: int = 16384
    """Batches by which a run may lag behind the others and still catch up: the turns of 256 streams. A run
    whose hosts were gone for an hour would else have everything to itself for the next one; and with less
    than all streams' turns, what a large run got in one turn would be forgiven it."""
