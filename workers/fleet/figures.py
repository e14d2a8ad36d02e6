"""What the ledger counts for those who watch it."""

from __future__ import annotations

from workers.fleet.keys import KEYS
from workers.fleet.scripts import Scripts, text
from workers.fleet.values import Waiting


class Figures:
    def __init__(self, scripts: Scripts) -> None:
        self._scripts = scripts

    def counters(self) -> dict[str, int]:
        """How often each thing happened since Redis was empty; `docs/fleet.md` lists the names. One that
        never happened is missing."""
        counters: dict[bytes, bytes] = self._scripts.command("HGETALL", KEYS["counters"])
        return {text(name): int(count) for name, count in counters.items()}

    def waiting(self) -> Waiting:
        """How many disks wait for their first stream, and for how long the oldest of them does."""
        disks, oldest = self._scripts.call("waiting")
        return Waiting(disks, oldest / 1000)
