"""A stream that cannot keep its lease cuts its connection in time, whatever Redis does."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest

from workers.fleet import LedgerUnreachable, Timing
from workers.messages import Grant
from workers.stream import LeaseKeeper

GRANT = Grant("lab", "host", 0, 1, "run", "disk")
TIMING = Timing(renew_every=0.1, cut_after=1.0, lease=1.2, quarantine=30.0, linger=5.0)


@dataclass
class SlowLedger:
    """A ledger whose answers to renewals are scripted; a real one cannot be made to hang on time."""

    answers: list[bool | str]
    timing: Timing = TIMING
    renewed: int = 0
    hang: threading.Event = field(default_factory=threading.Event)

    def renew(self, grants: Sequence[Grant], owner: str) -> list[bool]:
        answer = self.answers[min(self.renewed, len(self.answers) - 1)]
        self.renewed += 1
        if answer == "hang":
            self.hang.wait(10)
            raise LedgerUnreachable("timed out")
        if answer == "down":
            raise LedgerUnreachable("refused")
        return [answer is True for _ in grants]


def lost_after(ledger: SlowLedger, patience: float) -> float | None:
    """Seconds until the connection was cut; None when it was not within `patience`."""
    with LeaseKeeper(ledger, GRANT, "node/1", time.monotonic()) as keeper:  # type: ignore[arg-type]
        began = time.monotonic()
        while time.monotonic() - began < patience:
            if keeper.lost:
                ledger.hang.set()
                return time.monotonic() - began
            threading.Event().wait(0.005)
        ledger.hang.set()
        return None


def test_renewed_leases_are_kept() -> None:
    assert lost_after(SlowLedger([True]), 2.0) is None


def test_a_slot_that_is_no_longer_ours_is_cut_at_once() -> None:
    assert lost_after(SlowLedger([True, False]), 5.0) is not None


@pytest.mark.parametrize("trouble", ["hang", "down"])
def test_the_cut_does_not_wait_for_redis(trouble: bool | str) -> None:
    ledger = SlowLedger([trouble])
    lost = lost_after(ledger, 5.0)
    assert lost is not None
    assert lost >= TIMING.cut_after * 0.9
    assert lost < 5.0
    assert ledger.renewed == 1 or trouble == "down"


def test_trouble_that_passes_in_time_costs_nothing() -> None:
    assert lost_after(SlowLedger(["down", "down", True]), 2.0) is None
