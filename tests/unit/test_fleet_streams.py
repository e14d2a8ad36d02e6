"""A stream's batches: reserved, committed once, given back; and what a stream is told."""

from __future__ import annotations

import pytest

from tests.fleet_clock import Fleet, disk_work
from workers.fleet import LedgerError, Limits, Outcome, Timing, Verdict

TIMING = Timing()


@pytest.mark.parametrize(("reserved", "committed"), [(3, []), (2, [0]), (3, [2, 0])])
def test_batches_that_were_reserved_and_not_committed_come_back_first(
    fleet: Fleet, reserved: int, committed: list[int]
) -> None:
    fleet.start(disk_work("d1", 50))
    first, other = fleet.hold(), fleet.hold()
    taken = [fleet.ledger.take(first).batch for _ in range(reserved)]
    taken += [fleet.ledger.commit(first, batch, 1, 1).batch for batch in committed]
    fleet.ledger.release(first, Outcome.CLEAN)
    expected = [batch for batch in taken if batch not in committed]
    assert [fleet.ledger.take(other).batch for _ in expected] == expected
    assert fleet.disk("d1").done == len(committed)


def test_a_stream_holds_three_batches_at_most(fleet: Fleet) -> None:
    fleet.start(disk_work("d1", 50))
    grant = fleet.hold()
    answers = [fleet.ledger.take(grant) for _ in range(5)]
    assert [answer.batch for answer in answers] == [0, 1, 2, None, None]
    assert {answer.verdict for answer in answers} == {Verdict.CONTINUE}


def test_a_batch_counts_once_whoever_commits_it_again(fleet: Fleet) -> None:
    fleet.start(disk_work("d1", 50))
    first, second = fleet.hold(), fleet.hold()
    fleet.ledger.take(first)
    for grant in (first, second, first):
        fleet.ledger.commit(grant, 0, 100, 10)
    assert (fleet.disk("d1").done, fleet.disk("d1").read_bytes, fleet.disk("d1").stored_bytes) == (1, 100, 10)


def test_a_commit_whose_answer_was_lost_is_answered_the_same(fleet: Fleet) -> None:
    fleet.start(disk_work("d1", 50))
    grant = fleet.hold()
    fleet.ledger.take(grant)
    assert fleet.ledger.commit(grant, 0, 1, 1) == fleet.ledger.commit(grant, 0, 1, 1)
    assert fleet.ledger.commit(grant, 1, 1, 1).batch == 2


def test_a_batch_that_the_disk_does_not_have_is_refused(fleet: Fleet) -> None:
    fleet.start(disk_work("d1", 5))
    grant = fleet.hold()
    for batch in (-1, 5, 1 << 40):
        with pytest.raises(LedgerError, match="disk d1 has no batch"):
            fleet.ledger.commit(grant, batch, 1, 1)


def test_a_draining_node_finishes_what_it_holds(fleet: Fleet) -> None:
    fleet.start(disk_work("d1", 50))
    grant = fleet.hold(owner="node/7")
    elsewhere = fleet.hold(owner="second/1")
    fleet.ledger.take(grant)
    (unclaimed,) = fleet.ledger.admit()
    fleet.ledger.node_drain("node")
    assert fleet.ledger.verdicts([grant, elsewhere]) == [Verdict.DRAIN, Verdict.CONTINUE]
    fleet.clock.advance(TIMING.node)  # a node that stops reports no more, its streams drain all the same
    fleet.ledger.sweep()
    assert fleet.ledger.commit(grant, 0, 1, 1).verdict is Verdict.DRAIN
    assert fleet.ledger.take(elsewhere).verdict is Verdict.CONTINUE
    assert fleet.ledger.claim(unclaimed, "node/8") is None
    assert fleet.disk("d1").done == 1


@pytest.mark.parametrize("by", ["time", "batches"])
def test_a_turn_ends_only_when_another_disk_waits_for_it(fleet: Fleet, by: str) -> None:
    fleet.start(disk_work("d1", 500), processes=1)
    grant = fleet.hold()
    following = fleet.ledger.take(grant)
    turn = 1 if by == "time" else Limits().quantum_batches - 1
    for _ in range(turn):
        assert following.batch is not None
        following = fleet.ledger.commit(grant, following.batch, 1, 1)
    if by == "time":
        fleet.clock.advance(TIMING.quantum / 3)
        fleet.ledger.renew([grant])
        fleet.clock.advance(TIMING.quantum / 3)
        fleet.ledger.renew([grant])
        fleet.clock.advance(TIMING.quantum / 3)
    fleet.ledger.node_alive("node", 1)
    assert following.batch is not None
    following = fleet.ledger.commit(grant, following.batch, 1, 1)
    assert following.verdict is Verdict.CONTINUE  # nobody waits
    fleet.ledger.add_vms("run", {"vm2": b""})
    fleet.ledger.start_vm("run", "vm2", [disk_work("d2", 5, vm="vm2")])
    for _ in range(2):  # the newcomer joins as the equal of the least served: one more batch decides
        fleet.clock.advance(TIMING.ask_every)
        assert following.batch is not None
        following = fleet.ledger.commit(grant, following.batch, 1, 1)
    assert (following.verdict, following.batch) == (Verdict.YIELD, None)
    fleet.ledger.release(grant, Outcome.CLEAN)
    assert fleet.hold().disk == "d2"


def test_no_more_streams_yield_than_disks_wait(fleet: Fleet) -> None:
    fleet.start(*(disk_work(f"d{i}", 500) for i in range(4)), processes=4)
    grants = [fleet.hold() for _ in range(4)]
    last = {}
    for grant in grants:
        last[grant] = fleet.ledger.take(grant).batch
        for _ in range(Limits().quantum_batches):
            last[grant] = fleet.ledger.commit(grant, last[grant], 1, 1).batch  # type: ignore[arg-type]
    fleet.ledger.add_vms("run", {"vm2": b""})
    fleet.ledger.start_vm("run", "vm2", [disk_work("new1", 5, vm="vm2"), disk_work("new2", 5, vm="vm2")])
    for grant in grants:
        last[grant] = fleet.ledger.commit(grant, last[grant], 1, 1).batch  # type: ignore[arg-type]
    fleet.clock.advance(TIMING.ask_every)
    verdicts = [fleet.ledger.commit(grant, last[grant], 1, 1).verdict for grant in grants]  # type: ignore[arg-type]
    assert verdicts == [Verdict.YIELD, Verdict.YIELD, Verdict.CONTINUE, Verdict.CONTINUE]


def test_nothing_waits_while_a_process_is_idle_and_a_slot_free(fleet: Fleet) -> None:
    fleet.start(disk_work("d1", 500), processes=2)
    grant = fleet.hold()
    following = fleet.ledger.take(grant)
    fleet.ledger.add_vms("run", {"vm2": b""})
    fleet.ledger.start_vm("run", "vm2", [disk_work("d2", 5, vm="vm2")])
    for _ in range(Limits().quantum_batches + 1):
        assert following.verdict is Verdict.CONTINUE
        assert following.batch is not None
        following = fleet.ledger.commit(grant, following.batch, 1, 1)


def test_a_disk_that_waits_only_for_this_host_is_waited_for(fleet: Fleet) -> None:
    fleet.start(disk_work("d1", 500), processes=9, caps={"h1": 1, "h2": 1})
    grant = fleet.hold()
    last = fleet.ledger.take(grant).batch
    for _ in range(Limits().quantum_batches):
        last = fleet.ledger.commit(grant, last, 1, 1).batch  # type: ignore[arg-type]
    fleet.ledger.add_vms("run", {"vm2": b""})
    fleet.ledger.start_vm("run", "vm2", [disk_work("d2", 5, vm="vm2", hosts=("h1",))])
    last = fleet.ledger.commit(grant, last, 1, 1).batch  # type: ignore[arg-type]
    fleet.clock.advance(TIMING.ask_every)
    assert fleet.ledger.commit(grant, last, 1, 1).verdict is Verdict.YIELD  # type: ignore[arg-type]
