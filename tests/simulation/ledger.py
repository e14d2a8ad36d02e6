"""The ledger of a few runs in memory, as far as finishing and looking for orphans ask it."""

from __future__ import annotations

from dataclasses import dataclass, field

from tests.simulation.turns import Turns
from workers.fleet import DiskProgress


@dataclass
class RunValues:
    vms: dict[str, bytes] = field(default_factory=dict)
    disks: list[DiskProgress] = field(default_factory=list)
    cancelled: bool = False


class MemoryLedger:
    """Each run's values are its own actor's alone; and no slot is held."""

    def __init__(self, turns: Turns) -> None:
        self.values: dict[str, RunValues] = {}
        self._turns = turns

    def vm_facts(self, run: str, vm: str) -> bytes:
        self._turns.point(f"ledger: facts of {run}")
        return self.values[run].vms[vm]

    def set_vm_facts(self, run: str, vm: str, facts: bytes) -> None:
        self._turns.point(f"ledger: keep facts of {run}")
        self.values[run].vms[vm] = facts

    def finish_vm(self, run: str, vm: str, facts: bytes) -> None:
        self._turns.point(f"ledger: {run} finished")
        self.values[run].vms[vm] = facts

    def vm_disks(self, run: str, vm: str) -> list[DiskProgress]:
        self._turns.point(f"ledger: disks of {run}")
        return self.values[run].disks

    def committed_packs(self, run: str, disk: str) -> bytes:
        return b""

    def is_cancelled(self, run: str) -> bool:
        self._turns.point(f"ledger: is {run} cancelled")
        return self.values[run].cancelled

    def barrier_left(self) -> float:
        return 0.0

    def hosts(self) -> list[object]:
        return []
