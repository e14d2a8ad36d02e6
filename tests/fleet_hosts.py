"""The hosts as the ledger's tests model them: what each serves, and what it lets go of late."""

from __future__ import annotations

from dataclasses import dataclass, field

from workers.fleet import Grant, HostToCount


@dataclass(eq=False)
class Connection:
    """A worker process that claimed `grant` and has, or opens, its connection."""

    grant: Grant
    owner: str
    heard: float
    batches: set[int] = field(default_factory=set)
    takes: list[int] = field(default_factory=list)
    commits: list[int] = field(default_factory=list)
    """The numbers of its takes and the batches of its commits, that were answered."""
    plugged: bool = False
    """The host has accepted it and plugged its disk."""
    paused: bool = False
    late: bool = False
    """It was paused before it connected: nobody can know of it."""


@dataclass
class Orphan:
    """What a host still serves of a connection that ended."""

    connection: Connection
    until: float


@dataclass
class Reconciler:
    due: HostToCount
    seen: list[str] | None = None


class Hosts:
    def __init__(self, caps: dict[str, int]) -> None:
        self._caps = caps
        self.orphans: list[Orphan] = []

    def let_go(self, connection: Connection, until: float) -> None:
        """A connection that never got through may hold its place for a while too, but has no disk plugged."""
        self.orphans.append(Orphan(connection, until))

    def pass_time(self, now: float) -> None:
        self.orphans = [each for each in self.orphans if each.until > now]

    def restart(self, host: str) -> None:
        self.orphans = [each for each in self.orphans if each.connection.grant.host != host]

    def plugged(self, host: str, connections: list[Connection]) -> list[str]:
        """The snapshots that a look at its control domain finds."""
        return [
            f"snapshot-of-{each.grant.disk}"
            for each in [*connections, *(each.connection for each in self.orphans)]
            if each.grant.host == host and each.plugged
        ]

    def has_room(self, host: str, connections: list[Connection]) -> bool:
        """It counts from accept on and knows nothing of those that are on their way."""
        accepted = [each for each in connections if each.plugged]
        served = [*accepted, *(each.connection for each in self.orphans)]
        return sum(each.grant.host == host for each in served) < self._caps[host]

    def has_late(self, host: str, connections: list[Connection]) -> bool:
        served = [*connections, *(each.connection for each in self.orphans)]
        return any(each.late and each.grant.host == host for each in served)

    def expected(self, host: str, connections: list[Connection], lapsed: float) -> int:
        """What it serves or may have to serve any moment, without those that nobody can know of: paused on
        their way, and last heard of at `lapsed` or before."""
        on_their_way = [
            each for each in connections if each.plugged or not each.paused or each.heard > lapsed
        ]
        served = [*on_their_way, *(each.connection for each in self.orphans)]
        return sum(each.grant.host == host and not each.late for each in served)
