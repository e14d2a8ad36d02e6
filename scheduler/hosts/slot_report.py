"""What a host's slots say to a person: what each waits for, and what an operator can do about a stuck one.

Pure functions over the ledger's values.
"""

from __future__ import annotations

from collections.abc import Sequence

from workers.fleet import Host, Slot


def waits_for(slot: Slot) -> str:
    """What has to happen for the slot to go on; "" for one that waits for nothing."""
    if slot.state == "GRANTED":
        return f"a worker process to claim it, {slot.expires_in:.0f} s at most"
    if slot.state == "OPENING":
        return "the host to open the connection"
    if slot.state == "HELD":
        return ""
    if slot.state == "FREE":
        return ""
    if slot.stuck:
        return "the host to let go of the disk"
    if slot.expires_in > 0:
        return f"the end of its rest, {slot.expires_in:.0f} s"
    return "a count of the host's connections"


def is_uncounted(host: Host) -> bool:
    """Nothing is opened there before the host's connections were counted."""
    return host.counted_ago is None and host.effective_cap <= 0


def is_closed(host: Host) -> bool:
    """Opens fail or are rejected there, so for a while none is tried."""
    return host.circuit_left > 0


def troubles(host: Host, slots: Sequence[Slot], name: str) -> list[str]:
    """A line for each thing that keeps connections of this host from being used, and what to do about it."""
    lines = []
    for slot in slots:
        if slot.stuck:
            lines.append(
                f"host {name}: slot {slot.number} is stuck: its connection ended {_age(slot.since)} ago, and"
                " the host still has the disk plugged in. On that host: systemctl restart xapi-nbd (all"
                f" connections there are cut); or give it up: cbtfleet slots --pool {host.pool}"
                f" --host {host.host} --release {slot.number}"
            )
    if host.unaccounted > 0:
        lines.append(
            f"host {name}: {_count(host.unaccounted, 'connection')} of ours that no slot explains"
            f" ({_age(host.counted_ago or 0)} ago): whoever had them is gone. So many fewer are opened."
            " When they stay, on that host: systemctl restart xapi-nbd"
        )
    if is_uncounted(host):
        lines.append(
            f"host {name}: not counted yet, so nothing is opened there; the pool must answer a scheduler"
        )
    if is_closed(host):
        lines.append(
            f"host {name}: connections could not be opened lately; one is tried in {host.circuit_left:.0f} s"
        )
    if host.lowered > 0:
        lines.append(
            f"host {name}: {_count(host.lowered, 'connection')} fewer used for now, as opens were rejected"
        )
    return lines


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _age(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.0f} h"
