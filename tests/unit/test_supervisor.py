"""The supervisor: what a stream process had in hand when its end of it closed is given back at once."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest

from tests.until import until
from workers.fleet import LedgerUnreachable, Outcome, Timing
from workers.messages import Grant
from workers.node.supervisor import Supervisor
from workers.node.tasks import report_to
from workers.stream.reports import LONGEST_MESSAGE, Report, ReportsToSupervisor

GRANT = Grant("lab", "host", 2, 17, "run", "disk")
OWNER = "node/1"


@dataclass
class Ledger:
    """Notes releases; `owner` is who has the slot, `away` how many calls find Redis gone."""

    owner: str = OWNER
    away: int = 0
    released: list[tuple[Grant, Outcome, str]] = field(default_factory=list)
    asked: int = 0
    timing: Timing = field(default_factory=Timing)

    def slots(self, pool: str, host: str) -> list[SimpleNamespace]:
        self.asked += 1
        return [SimpleNamespace(number=GRANT.slot, fence=GRANT.fence, owner=self.owner)]

    def release(self, grant: Grant, outcome: Outcome, why: str, owner: str) -> None:
        if self.away:
            self.away -= 1
            raise LedgerUnreachable("Redis does not answer")
        self.released.append((grant, outcome, owner))


@dataclass
class Counts:
    """What was observed, in order."""

    seen: list[object] = field(default_factory=list)
    most_busy: int = 0

    def opened(self, seconds: float) -> None:
        self.seen.append("opened")

    def batch(self, read_bytes: int, stored_bytes: int) -> None:
        self.seen.append((read_bytes, stored_bytes))

    def renewed(self, seconds: float) -> None:
        self.seen.append("renewed")

    def ended(self, outcome: str, batches: int | None) -> None:
        self.seen.append((outcome, batches))

    def killed(self) -> None:
        self.seen.append("killed")

    def busy(self, processes: int) -> None:
        self.most_busy = max(self.most_busy, processes)


@dataclass
class Node:
    ledger: Ledger
    counts: Counts
    supervisor: Supervisor
    stopped: list[str]

    def child(self) -> ReportsToSupervisor:
        return ReportsToSupervisor.connect(self.supervisor.address)


@pytest.fixture
def node() -> Iterator[Node]:
    ledger, counts = Ledger(), Counts()
    stopped: list[str] = []
    supervisor = Supervisor(ledger, counts, lambda: stopped.append("told"))  # type: ignore[arg-type]
    supervisor.start()
    yield Node(ledger, counts, supervisor, stopped)
    supervisor.stop()


@pytest.mark.parametrize("opened", [True, False])
def test_a_death_with_a_grant_in_hand_gives_it_back(node: Node, opened: bool) -> None:
    child = node.child()
    child.claiming(GRANT, OWNER)
    if opened:
        child.opened(0.5)
        child.batch(100, 40)
    child.close()
    until(lambda: node.ledger.released)
    assert node.ledger.released == [(GRANT, Outcome.LOST, OWNER)]
    assert node.counts.seen[-1] == (Outcome.LOST, 1 if opened else None)


def test_what_another_process_claimed_is_not_given_back_for_it(node: Node) -> None:
    """A doubled message: two processes asked, the one that died did not get it."""
    node.ledger.owner = "node/2"
    child = node.child()
    child.claiming(GRANT, OWNER)
    child.close()
    until(lambda: node.ledger.asked)
    node.supervisor.stop()
    assert node.ledger.released == []


@pytest.mark.parametrize("end", ["passed", "ended"])
def test_a_death_with_empty_hands_gives_nothing_back(node: Node, end: str) -> None:
    child = node.child()
    child.claiming(GRANT, OWNER)
    if end == "passed":
        child.passed()
    else:
        child.opened(0.5)
        child.ended("CLEAN")
    child.close()
    until(lambda: end == "passed" or node.counts.seen == ["opened", ("CLEAN", 0)])
    node.supervisor.stop()
    assert node.ledger.released == []


def test_a_redis_that_is_away_is_asked_again(node: Node) -> None:
    node.ledger.away = 2
    child = node.child()
    child.claiming(GRANT, OWNER)
    child.opened(0.1)
    child.close()
    until(lambda: node.ledger.released)


def test_drain_reaches_who_streams_who_begins_to_and_who_comes_later(node: Node) -> None:
    told: list[str] = []
    early, late = node.child(), None
    early.on_drain(lambda: told.append("streaming"))
    early.claiming(GRANT, OWNER)
    until(lambda: node.counts.most_busy)
    node.supervisor.drain()
    until(lambda: told == ["streaming"])
    early.on_drain(None)
    early.on_drain(lambda: told.append("next"))
    assert told == ["streaming", "next"]
    late = node.child()
    late.on_drain(lambda: told.append("later"))
    until(lambda: told[2:] == ["later"])
    for child in (early, late):
        child.close()


def test_what_a_stream_finds_wrong_with_the_machine_stops_the_node_once(node: Node) -> None:
    first, second = node.child(), node.child()
    first.unfit("block 7 does not open again", 4)
    until(lambda: node.stopped)
    second.unfit("the clock is wrong", 1)
    second.opened(0.1)
    until(lambda: node.counts.seen)
    assert node.stopped == ["told"]
    assert node.supervisor.unfit is not None
    assert node.supervisor.unfit.exit_code == 4
    assert str(node.supervisor.unfit) == "this node has stopped itself: block 7 does not open again"
    for child in (first, second):
        child.close()


def test_a_parent_that_is_stopped_stops_no_stream_and_loses_no_word() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind("")
        listener.listen()
        child = ReportsToSupervisor.connect(listener.getsockname())
        for number in range(800):
            child.batch(number, 0)
        parent, _ = listener.accept()
        parent.setblocking(False)
        with parent:
            heard = []
            while len(heard) < 801:
                try:
                    heard.append(parent.recv(LONGEST_MESSAGE))
                except BlockingIOError:
                    child.alive()
        child.close()
    reports = [Report.read(each, "a report") for each in heard]
    numbers = [report.read_bytes for report in reports if report.event == "batch"]
    assert numbers == list(range(800))


def test_what_is_no_report_is_one_line_and_the_next_one_counts(
    node: Node, caplog: pytest.LogCaptureFixture
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as child:
        child.connect(node.supervisor.address)
        child.send(b'{"event":"moon"}')
        child.send(b"no JSON")
        child.send(Report("opened", seconds=0.5).write())
        until(lambda: node.counts.seen)
    assert node.counts.seen == ["opened"]
    first, second = caplog.messages
    assert first.startswith(f"a report of stream process {os.getpid()}: event: Input should be 'claiming', ")
    assert second == f"a report of stream process {os.getpid()}: it is not JSON"


def test_a_stream_runs_without_a_parent_that_listens() -> None:
    report_to(b"\0nobody").claiming(GRANT, OWNER)
