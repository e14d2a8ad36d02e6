"""What the ledger tells, read at once. A Redis that cbtfleet never used is not asked: that would use it."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field

import redis

from workers.errors import CbtfleetError
from workers.fleet import Host, Ledger, LedgerUnreachable, Node, Slot
from workers.fleet.keys import KEYS
from workers.redis_address import RedisAddress
from workers.settings import Settings


@dataclass(frozen=True)
class LedgerFacts:
    hosts: tuple[Host, ...] = ()
    slots: Mapping[tuple[str, str], list[Slot]] = field(default_factory=dict)
    """By pool and host."""
    nodes: tuple[Node, ...] = ()
    barrier_left: float = 0.0
    """Seconds until connections are granted again."""
    used_before: bool = True
    """False: nothing of cbtfleet's is in this Redis yet."""


def read_ledger(settings: Settings) -> LedgerFacts:
    """Raises LedgerUnreachable or another LedgerError."""
    if not _was_used(settings):
        return LedgerFacts(used_before=False)
    with closing(Ledger.open(settings)) as ledger:
        hosts = ledger.hosts()
        return LedgerFacts(
            hosts=tuple(hosts),
            slots={(host.pool, host.host): ledger.slots(host.pool, host.host) for host in hosts},
            nodes=tuple(ledger.nodes()),
            barrier_left=ledger.barrier_left(),
        )


def _was_used(settings: Settings) -> bool:
    try:
        address = RedisAddress.of(settings)
        with closing(address.client(socket_connect_timeout=5, socket_timeout=5)) as client:
            return bool(client.exists(KEYS["epoch"]))
    except (redis.RedisError, ValueError, CbtfleetError) as error:
        raise LedgerUnreachable(f"Redis does not answer: {type(error).__name__}") from error
