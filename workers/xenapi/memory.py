"""What one process has learnt of a pool, kept from session to session."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class PoolMemory:
    """Sessions of several threads may share one: each value is replaced whole, and any is good enough."""

    addresses: tuple[str, ...] = ()
    """Management addresses of the pool's hosts, asked when the configured one does not answer."""
    nbd_port: int | None = None
    """The port of the hosts' NBD service, as XAPI said last."""
    waited_for_nbd: bool = False
    """NBD was off the last time we waited for it to come; no use in waiting once more for each disk."""
