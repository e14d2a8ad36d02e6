"""What the ledger counts for those who watch it."""

from __future__ import annotations

from workers.fleet.keys import KEYS
from workers.fleet.scripts import Scripts, text
from workers.fleet.values import Waiting

AT_ONCE = 500
"""Disks asked for in one round trip: no reader keeps Redis from the streams for long."""


class Figures:
    def __init__(self, scripts: Scripts) -> None:
        self._scripts = scripts

    def counters(self) -> dict[str, int]:
        """How often each thing happened since Redis was empty; `docs/fleet.md` lists the names. One that
        never happened is missing."""
        counters: dict[bytes, bytes] = self._scripts.command("HGETALL", KEYS["counters"])
        return {text(name): int(count) for name, count in counters.items()}

    def waiting(self) -> Waiting:
        """The disks without a stream that could have one, and those in back-off. Read in a few round trips,
        so a disk may be a moment newer than another."""
        commands = self._scripts.commands
        now = int(self._scripts.call("clock"))
        rows = commands([("SMEMBERS", KEYS["lines"] + "first"), ("ZRANGE", KEYS["delayed"], "0", "-1")])
        lines, delayed = ([text(name) for name in row] for row in rows)
        standing = commands([("ZRANGE", f"{KEYS['line']}first/{line}", "0", "-1") for line in lines])
        disks = delayed + [
            f"{line.partition('/')[2]}/{text(disk)}"
            for line, row in zip(lines, standing, strict=True)
            for disk in row
        ]
        since = []
        for start in range(0, len(disks), AT_ONCE):
            keys = [KEYS["disk"] + disk for disk in disks[start : start + AT_ONCE]]
            rows = commands([("HMGET", key, "streams", "since") for key in keys])
            since += [int(began) for streams, began in rows if not int(streams or 0) and began is not None]
        return Waiting(len(since), max(0, now - min(since, default=now)) / 1000)
