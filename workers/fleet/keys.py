"""The name of every key in Redis. The Lua scripts get this same table; `docs/fleet.md` says what is inside.

Names that end in a separator are followed by `<run>`, `<run>/<disk>`, `<pool>/<host>` and the like.
"""

from __future__ import annotations

KEYS = {
    "epoch": "cbtfleet:epoch",
    "wake": "cbtfleet:wake",
    # control plane
    "runs": "cbtfleet:runs",
    "run": "cbtfleet:run:",
    "vms": "cbtfleet:vms:",
    "vm": "cbtfleet:vm:",
    "stopping": "cbtfleet:stopping",
    "steps": "cbtfleet:steps",
    "step": "cbtfleet:step:",
    "permit": "cbtfleet:permit:",
    "permits": "cbtfleet:permits:",
    "permit_queue": "cbtfleet:permit-queue:",
    "permit_heads": "cbtfleet:permit-heads:",
    "permit_ends": "cbtfleet:permit-ends",
    "permit_number": "cbtfleet:permit-number",
    # disks
    "disk": "cbtfleet:disk:",
    "facts": "cbtfleet:facts:",
    "plans": "cbtfleet:plans:",
    "errors": "cbtfleet:errors:",
    "done": "cbtfleet:done:",
    "returned": "cbtfleet:returned:",
    "packs": "cbtfleet:packs:",
    "troubled": "cbtfleet:troubled",
    # waiting
    "groups": "cbtfleet:groups",
    "group_numbers": "cbtfleet:group-numbers",
    "shut": "cbtfleet:shut",
    "line": "cbtfleet:line:",
    "lines": "cbtfleet:lines:",
    "delayed": "cbtfleet:delayed",
    "sharing": "cbtfleet:sharing",
    "vtime": "cbtfleet:vtime",
    # hosts, slots, nodes
    "hosts": "cbtfleet:hosts",
    "host": "cbtfleet:host:",
    "slots": "cbtfleet:slots:",
    "openings": "cbtfleet:openings",
    "yielding": "cbtfleet:yielding",
    "nodes": "cbtfleet:nodes",
    "processes": "cbtfleet:processes",
    "draining": "cbtfleet:draining",
    "busy": "cbtfleet:busy",
    "spare": "cbtfleet:spare",
    "credentials": "cbtfleet:credentials",
    "counters": "cbtfleet:counters",
}


def plain(what: str, value: str, *, empty: bool = False) -> str:
    """`value`, checked to be usable inside a key: "/" separates the parts of a key.

    Raises ValueError: an id with a slash is a mistake of the calling code.
    """
    if "/" in value or (not value and not empty):
        raise ValueError(f"{what} {value!r}: an id must not be empty and must not hold a slash")
    return value
