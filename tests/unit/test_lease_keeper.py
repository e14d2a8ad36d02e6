"""A stream that cannot keep its lease cuts its connection in time, whatever Redis does; and what it is told
while it waits for a slow host it does."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from types import SimpleNamespace

import pytest

from tests.until import until
from workers.fleet import LedgerUnreachable, Timing, Verdict
from workers.messages import Grant
from workers.stream.lease import LeaseKeeper
from workers.stream.reports import NoReports

GRANT = Grant("lab", "host", 0, 1, "run", "disk")
TIMING = Timing(renew_every=0.1, cut_after=1.0, lease=1.2, quarantine=30.0, linger=5.0)


@dataclass
class SlowLedger:
    """A ledger whose answers to renewals are scripted; a real one cannot be made to hang on time."""

    answers: list[bool | str]
    timing: Timing = TIMING
    renewed: int = 0
    verdict: Verdict = Verdict.CONTINUE
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

    def verdicts(self, grants: Sequence[Grant], owner: str) -> list[Verdict]:
        return [self.verdict for _ in grants]


class Parent(NoReports):
    """The node's parent: says drain when a test wants it, and hears of streams that are stuck."""

    def __init__(self) -> None:
        self.heard: list[str] = []
        self.drain: Callable[[], None] | None = None

    def on_drain(self, listener: Callable[[], None] | None) -> None:
        self.drain = listener

    def alive(self) -> None:
        self.heard.append("alive")

    def stuck(self) -> None:
        self.heard.append("stuck")


@dataclass
class Work:
    """A transfer whose host owes it data, or does not."""

    waiting_since: float | None = None
    told: list[Verdict] = field(default_factory=list)

    def tell(self, verdict: Verdict) -> None:
        self.told.append(verdict)


def keeper_of(ledger: SlowLedger, parent: Parent | None = None, claimed: float | None = None) -> LeaseKeeper:
    began = time.monotonic() if claimed is None else claimed
    return LeaseKeeper(ledger, GRANT, "node/1", began, parent or Parent())  # type: ignore[arg-type]


def lost_after(ledger: SlowLedger, patience: float) -> float | None:
    """Seconds until the connection was cut; None when it was not within `patience`."""
    with keeper_of(ledger) as keeper:
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


def test_a_lease_that_had_passed_is_not_taken_back_by_a_late_renewal() -> None:
    """After a pause the renewing thread may go on before the watching one, and a ledger that was emptied
    meanwhile gives back what others may have by now."""
    keeper = keeper_of(SlowLedger([True]), claimed=time.monotonic() - TIMING.cut_after - 0.1)
    keeper._renew()  # without the watching thread
    assert keeper.lost


def test_a_lease_counts_from_the_sending_of_what_was_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    """The ledger's lease began somewhere between sending and answer: nobody knows where."""
    now = 100.0
    monkeypatch.setattr("workers.stream.lease.time", SimpleNamespace(monotonic=lambda: now))
    ledger = SlowLedger([True, "down"])
    keeper = keeper_of(ledger, claimed=now)
    renew = ledger.renew

    def late(grants: Sequence[Grant], owner: str) -> list[bool]:
        nonlocal now
        if ledger.renewed:
            keeper._end.set()
        else:
            now += 0.6
        return renew(grants, owner)

    monkeypatch.setattr(ledger, "renew", late)
    now += 0.3
    keeper._renew()  # without the watching thread
    now = 100.3 + TIMING.cut_after - 0.01
    assert keeper.still_ours()
    now = 100.3 + TIMING.cut_after
    assert not keeper.still_ours()


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


def test_who_was_paused_since_the_claim_asks_first_and_does_not_connect() -> None:
    """Before any thread of the keeper has run again: the answer is computed, not remembered."""
    fresh = keeper_of(SlowLedger([True]))
    assert fresh.still_ours()
    paused = keeper_of(SlowLedger([True]), claimed=time.monotonic() - TIMING.cut_after)
    assert not paused.still_ours()
    assert paused.lost


@pytest.mark.parametrize("verdict", [Verdict.CANCEL, Verdict.DRAIN])
def test_while_the_connection_is_opened_a_verdict_cuts_it(verdict: Verdict) -> None:
    with keeper_of(SlowLedger([True], verdict=verdict)) as keeper:
        until(lambda: keeper.stopped)
        assert keeper.stopped is verdict
        assert not keeper.lost


def test_a_fence_is_heard_with_a_renewal() -> None:
    with keeper_of(SlowLedger([True], verdict=Verdict.FENCE)) as keeper:
        until(lambda: keeper.lost)


@pytest.mark.parametrize("verdict", [Verdict.CANCEL, Verdict.DRAIN])
def test_a_transfer_is_told_and_ends_by_itself(verdict: Verdict) -> None:
    work, ledger = Work(), SlowLedger([True])
    with keeper_of(ledger) as keeper:
        keeper.transferring(work)
        ledger.verdict = verdict
        until(lambda: work.told)
        assert work.told[0] is verdict
        assert keeper.stopped is None


def test_the_parents_word_does_not_wait_for_a_renewal() -> None:
    timing = replace(TIMING, renew_every=100, cut_after=250, lease=300, barrier=1000, node=300)
    parent, work = Parent(), Work()
    with keeper_of(SlowLedger([True], timing), parent) as keeper:
        keeper.transferring(work)
        assert parent.drain is not None
        parent.drain()
        assert work.told == [Verdict.DRAIN]
        assert keeper.stopped is None
    assert parent.drain is None


def test_when_the_node_stops_a_host_that_owes_data_is_not_waited_for() -> None:
    parent, work = Parent(), Work(waiting_since=time.monotonic())
    with keeper_of(SlowLedger([True]), parent) as keeper:
        keeper.transferring(work)
        assert parent.drain is not None
        parent.drain()
        until(lambda: keeper.stopped)
        assert keeper.stopped is Verdict.DRAIN


def test_when_the_node_stops_a_slow_store_is_waited_for() -> None:
    parent, work = Parent(), Work(waiting_since=None)
    with keeper_of(SlowLedger([True]), parent) as keeper:
        keeper.transferring(work)
        assert parent.drain is not None
        parent.drain()
        until(lambda: parent.heard.count("alive") > 5)
        assert keeper.stopped is None


def test_when_the_node_stops_and_the_door_does_not_open_the_parent_is_asked_for_the_end() -> None:
    """A call of XenAPI cannot be cut: after a while the process itself is what must end."""
    parent = Parent()
    with keeper_of(SlowLedger([True]), parent):
        assert parent.drain is not None
        parent.drain()
        until(lambda: "stuck" in parent.heard)


def test_a_process_says_that_it_runs_while_redis_hangs() -> None:
    parent, ledger = Parent(), SlowLedger(["hang"])
    with keeper_of(ledger, parent) as keeper:
        until(lambda: parent.heard.count("alive") >= 3)
        assert not keeper.lost
        ledger.hang.set()
