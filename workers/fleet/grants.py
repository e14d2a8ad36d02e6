"""Hosts with their slots, worker nodes with their processes, and grants: leave to open a connection."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

from workers.fleet.keys import KEYS, plain
from workers.fleet.scripts import Scripts, request_id, text
from workers.fleet.values import Host, Node, Slot, Swept
from workers.messages import Grant

MOST_CONNECTIONS = 16
"""What one XenServer host serves over NBD, to everyone together."""


class Grants:
    def __init__(self, scripts: Scripts) -> None:
        self._scripts = scripts

    def set_host(self, pool: str, host: str, cap: int, confirm: bool = False) -> None:
        self.set_hosts(pool, [host], cap, confirm)

    def set_hosts(self, pool: str, hosts: Iterable[str], cap: int, confirm: bool = False) -> None:
        """Registers hosts, or changes their cap (1..16). Streams beyond a lowered cap run to their end.

        With `confirm` a slot that rests becomes free only when a count of the host has shown that the
        connection is gone (`hosts_to_count`, `counted`); without, when its rest is over.
        """
        if not 1 <= cap <= MOST_CONNECTIONS:
            raise ValueError(f"a host's cap is 1..{MOST_CONNECTIONS}, not {cap}")
        self._scripts.call("set_hosts", pool, cap, int(confirm), *(plain("host", host) for host in hosts))

    def hosts(self) -> list[Host]:
        rows = self._scripts.call("hosts")
        hosts = []
        for place, *counts, circuit_left, counted_ago in rows:
            pool, host = text(place).rsplit("/", 1)
            cap, lowered, rejects, used, unaccounted, others, waived, effective_cap = counts
            hosts.append(
                Host(
                    pool=pool,
                    host=host,
                    cap=cap,
                    lowered=lowered,
                    rejects=rejects,
                    circuit_left=circuit_left / 1000,
                    used=used,
                    unaccounted=unaccounted,
                    others=others,
                    waived=waived,
                    counted_ago=None if counted_ago < 0 else counted_ago / 1000,
                    effective_cap=effective_cap,
                )
            )
        return sorted(hosts, key=lambda host: (host.pool, host.host))

    def slots(self, pool: str, host: str) -> list[Slot]:
        """The host's slots by number, as they are now; `expires_in` is 0 for a free one."""
        return [
            Slot(
                number=number,
                state=cast(Any, text(state)),
                owner=text(owner),
                disk=text(disk),
                run=text(run),
                fence=fence,
                expires_in=left / 1000,
                since=since / 1000,
                stuck=bool(stuck),
            )
            for number, state, owner, disk, run, fence, left, since, stuck in self._scripts.call(
                "slots", pool, host
            )
        ]

    def free_slot(self, pool: str, host: str, number: int) -> bool:
        """An operator's release of a slot; False when it was free.

        QUARANTINE becomes FREE: when the host still counts its connection, that one is not waited for any
        more (`Host.waived`). GRANTED becomes FREE. OPENING and HELD become QUARANTINE: the stream is told
        FENCE and cuts its connection.
        """
        return bool(self._scripts.call("free_slot", pool, host, number, request_id()))

    def node_alive(self, node: str, processes: int, spare: int = 0, credentials: str = "") -> None:
        """Says that `node` runs `processes` streams, and has `spare` more worker processes for while some of
        its streams wait long for their host (`Timing.slow_open`). To be repeated within `Timing.node`.

        `credentials` marks those that it has for the store (`credentials_mark`)."""
        self._scripts.call("node_alive", plain("node", node), processes, spare, credentials)

    def node_drain(self, node: str) -> None:
        """Takes the node out of service: its streams are told DRAIN, its processes get no grants."""
        self._scripts.call("node_drain", plain("node", node))

    def node_gone(self, node: str) -> None:
        """Forgets the node, also that it drained. A node calls it when it starts and when it ends."""
        self._scripts.call("node_gone", plain("node", node))

    def nodes(self) -> list[Node]:
        """The live worker nodes."""
        rows = self._scripts.call("nodes")
        nodes = [
            Node(text(name), processes, busy, bool(draining), text(credentials))
            for name, processes, busy, draining, credentials in rows
        ]
        return sorted(nodes, key=lambda node: node.name)

    def admit(self, limit: int = 32) -> list[Grant]:
        """Grants slots to the disks that come next. Publish each grant once; one that nobody claims within
        `Timing.grant` is swept. Nothing is granted while `barrier_left` is not 0."""
        return [
            Grant(text(pool), text(host), number, fence, text(run), text(disk))
            for pool, host, number, fence, run, disk in self._scripts.call("admit", limit)
        ]

    def sweep(self) -> Swept:
        """Moves on every slot whose time is over. Call it about once a second, in any number of processes."""
        return Swept(*self._scripts.call("sweep"))

    def wait_for_work(self, timeout: float) -> None:
        """Returns when there may be something to admit or to publish; at the latest after `timeout` seconds,
        or sooner when the client's socket timeout is shorter than that."""
        socket_timeout = self._scripts.socket_timeout
        if socket_timeout is not None:
            timeout = min(timeout, socket_timeout / 2)
        self._scripts.command("BLPOP", KEYS["wake"], max(timeout, 0.01))

    def barrier_left(self) -> float:
        """Seconds until grants are given again, after Redis was started, failed over or was emptied; 0
        normally. On a Redis that was never used this call starts the barrier, as any other does."""
        return float(self._scripts.call("barrier_left")) / 1000

    def found(self) -> bool:
        """Declares a Redis to be new: there is nothing that it could have forgotten, so no barrier is needed.

        Only for who has just created an empty Redis for himself (`cbtfleet up`, the demo). False, and without
        effect, when the ledger was used before.
        """
        return bool(self._scripts.call("found"))
