"""Calls whose answer was lost and that are sent again, when other calls of the same owner came between."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any, cast

import pytest

from tests.fleet_clock import Fleet, disk_work
from tests.lossy_relay import relay_to
from workers.fleet import Ledger, LedgerUnreachable, Next, Outcome, Step, Timing, Verdict
from workers.repository import Pack
from workers.stream.lease import LeaseKeeper
from workers.stream.reports import NoReports
from workers.stream.stream import _Batches

TIMING = Timing()
PLAN_RUN = Step("run", "plan-run", "")


@pytest.fixture(autouse=True)
def _all_calls_are_one_request(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second call is then what redis-py sends when it got no answer to the first."""
    for module in ("runs", "steps", "streams", "grants"):
        monkeypatch.setattr(f"workers.fleet.{module}.request_id", lambda: "the same")


def test_a_take_after_a_commit_reserves_nothing_more(fleet: Fleet) -> None:
    fleet.start(disk_work("d1", 50))
    grant = fleet.hold()
    assert fleet.ledger.take(grant, number=1).batch == 0
    answer = fleet.ledger.take(grant, number=2)
    assert answer.batch == 1
    assert fleet.ledger.commit(grant, 0, 1, 1).batch == 2  # by the uploading thread
    assert fleet.ledger.take(grant, number=2) == answer
    fleet.ledger.commit(grant, 1, 1, 1)
    fleet.ledger.commit(grant, 2, 1, 1)
    assert fleet.ledger.take(grant, number=3) == Next(Verdict.CONTINUE, 5), "it holds 3 and 4"
    assert fleet.ledger.take(grant, number=2).batch == 5, "late: nobody hears it"
    fleet.ledger.release(grant, Outcome.CLEAN)
    other = fleet.hold()
    assert [fleet.ledger.take(other, number=number).batch for number in (1, 2, 3)] == [3, 4, 5]


def test_a_commit_after_a_take_reserves_nothing_more(fleet: Fleet) -> None:
    fleet.start(disk_work("d1", 50))
    grant = fleet.hold()
    fleet.ledger.take(grant, number=1)
    answer = fleet.ledger.commit(grant, 0, 1, 1)
    assert answer.batch == 1
    assert fleet.ledger.take(grant, number=2).batch == 2  # by the reading thread
    assert fleet.ledger.commit(grant, 0, 1, 1) == answer
    assert fleet.ledger.commit(grant, 1, 1, 1).batch == 3
    assert fleet.ledger.commit(grant, 0, 1, 1) == Next(Verdict.CONTINUE), "late: nobody hears it"
    assert fleet.ledger.commit(grant, 1, 1, 1).batch == 3
    assert fleet.ledger.take(grant, number=3).batch == 4, "so two are held"
    assert (fleet.disk("d1").done, fleet.disk("d1").read_bytes) == (2, 2)


def test_a_run_is_created_once_whatever_became_of_it(fleet: Fleet) -> None:
    assert fleet.ledger.create_run("run", b"nightly")
    fleet.ledger.set_run_facts("run", b"more")
    fleet.ledger.add_vms("run", {"vm": b""})
    fleet.ledger.cancel("run")
    assert fleet.ledger.create_run("run", b"nightly")
    assert fleet.ledger.run_facts("run") == b"more"
    assert len([step for step in fleet.ledger.due_steps() if step.name == "plan-run"]) == 1


def test_a_claim_is_good_for_one_open(fleet: Fleet) -> None:
    fleet.start(disk_work("d1", 50))
    (grant,) = fleet.ledger.admit(1)
    work = fleet.ledger.claim(grant, "node/1")
    assert work is not None
    assert fleet.ledger.claim(grant, "node/1") == work
    fleet.ledger.opened(grant)
    assert fleet.ledger.claim(grant, "node/1") is None, "late: the stream is at work"
    fleet.ledger.release(grant, Outcome.CLEAN)
    assert fleet.ledger.claim(grant, "node/1") is None


def test_a_step_that_was_put_off_is_not_claimed_by_a_claim_that_comes_late(fleet: Fleet) -> None:
    fleet.ledger.create_run("run", b"")
    fence = fleet.ledger.claim_step(PLAN_RUN, "a")
    assert fence is not None
    assert fleet.ledger.claim_step(PLAN_RUN, "a") == fence
    assert fleet.ledger.renew_step(PLAN_RUN, fence)
    assert fleet.ledger.claim_step(PLAN_RUN, "a") == fence
    assert fleet.ledger.put_off_step(PLAN_RUN, fence, 0)
    assert fleet.ledger.claim_step(PLAN_RUN, "a") is None
    assert fleet.ledger.due_steps() == [PLAN_RUN]
    fleet.clock.advance(TIMING.step_lease)
    assert fleet.ledger.claim_step(PLAN_RUN, "a") is None


def test_a_step_is_put_off_once(fleet: Fleet) -> None:
    fleet.ledger.create_run("run", b"")
    fence = fleet.ledger.claim_step(PLAN_RUN, "a")
    assert fence is not None
    assert fleet.ledger.put_off_step(PLAN_RUN, fence, 30)
    fleet.clock.advance(29)
    assert fleet.ledger.put_off_step(PLAN_RUN, fence, 30)
    fleet.clock.advance(1)
    assert fleet.ledger.due_steps() == [PLAN_RUN]


@pytest.mark.parametrize("state", ["HELD", "QUARANTINE"])
def test_an_operators_release_goes_one_state_further(fleet: Fleet, state: str) -> None:
    fleet.start(disk_work("d1", 50))
    grant = fleet.hold()
    if state == "QUARANTINE":
        fleet.ledger.release(grant, Outcome.CLEAN)
    for _ in range(2):
        assert fleet.ledger.free_slot("lab", "h1", grant.slot)
        assert fleet.states()[grant.slot] == ("FREE" if state == "QUARANTINE" else "QUARANTINE")
    assert fleet.ledger.counters()["released_by_hand"] == 1


@pytest.mark.parametrize("lost", [1, 2, 4])
def test_a_stream_that_gets_no_answer_asks_again_for_the_same_batch(
    fleet: Fleet, redis_url: str, lost: int
) -> None:
    """One lost answer redis-py makes good itself; two are LedgerUnreachable, and the stream calls again."""
    fleet.start(disk_work("d1", 50))
    grant = fleet.hold(owner="node/1")
    with relay_to(redis_url) as relay:
        ledger = Ledger.from_url(relay.url)
        context = cast(Any, SimpleNamespace(ledger=ledger, owner="node/1", reports=NoReports()))
        batches = _Batches(context, grant, LeaseKeeper(ledger, grant, "node/1", time.monotonic()))
        ledger.take(grant, "node/1", 0)  # the script is there from now on
        relay.lose = lost
        assert batches.take().batch == 1
        relay.lose = lost
        pack = Pack("packs/d1/run/0", memoryview(b"x"), 1, 0, 1, b"a hash of it")
        assert batches.commit(0, 1, pack).batch == 2
        relay.lose = 2
        with pytest.raises(LedgerUnreachable):
            ledger.take(grant, "node/1")
        ledger.close()
    assert fleet.ledger.take(grant).batch is None, "it holds 1 and 2, and one that nobody knows of"
