"""What the pool answers to. Importing this package registers every call."""

from __future__ import annotations

from infra.simulator.calls import event, nbd_info, pool, session, task, vdi, vm
from infra.simulator.calls.generic import generic_call
from infra.simulator.calls.registry import Call, registered

__all__ = ["event", "find_call", "nbd_info", "pool", "session", "task", "vdi", "vm"]


def find_call(method: str) -> Call | None:
    """By name, `Class.message`."""
    return registered(method) or generic_call(method)
