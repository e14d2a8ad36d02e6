"""The hosts' connection slots: stuck ones, and connections that nobody has any more."""

from __future__ import annotations

from contextlib import closing

from scheduler.checks.check import Check, ok, warning
from scheduler.slot_report import is_closed, is_uncounted, troubles
from workers.errors import CbtfleetError
from workers.fleet import Ledger
from workers.settings import Settings


def check_slots(settings: Settings) -> list[Check]:
    """Nothing when Redis cannot be asked: the checks of Redis say so."""
    name = "slots"
    try:
        with closing(Ledger.open(settings)) as ledger:
            hosts = ledger.hosts()
            rows = {(host.pool, host.host): ledger.slots(host.pool, host.host) for host in hosts}
    except CbtfleetError:
        return []
    found = []
    for host in hosts:
        slots = rows[host.pool, host.host]
        if any(slot.stuck for slot in slots) or host.unaccounted or is_closed(host) or is_uncounted(host):
            lines = troubles(host, slots, host.host)
            found.append(
                warning(name, "; ".join(lines), f"cbtfleet slots --pool {host.pool} --host {host.host}")
            )
    if not found and hosts:
        used = sum(host.used for host in hosts)
        found.append(ok(name, f"none is stuck; {used} in use on {len(hosts)} known hosts"))
    return found
