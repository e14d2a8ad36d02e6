"""Permits of control steps: so many at a place, in order, given back whatever happens; the next is called."""

from __future__ import annotations

import pytest
import redis

from tests.fleet_clock import Fleet
from workers.fleet import Step, Timing

TIMING = Timing()
A = {"pool/lab": 2, "sr/lab/a": 1}
B = {"pool/lab": 2, "sr/lab/b": 1}
BOTH = {"pool/lab": 2, "sr/lab/a": 1, "sr/lab/b": 1}


class Line:
    """Steps of one run, by the number of their VM."""

    def __init__(self, fleet: Fleet, vms: int) -> None:
        self.ledger = fleet.ledger
        self.ledger.found()
        self.ledger.create_run("run", b"")
        self.ledger.add_vms("run", {f"vm{number:02}": b"" for number in range(vms)})
        self.fences: dict[int, int] = {}
        self.due()

    def step(self, vm: int) -> Step:
        return Step("run", "plan-vm", f"vm{vm:02}")

    def ask(self, vm: int, places: dict[str, int] | None = None) -> bool | None:
        """As a scheduler does it: claimed, asked, put off when it has to wait."""
        fence = self.ledger.claim_step(self.step(vm), "scheduler")
        assert fence is not None
        self.fences[vm] = fence
        held = self.ledger.take_permit(self.step(vm), "lab", places)
        if not held:
            assert self.ledger.put_off_step(self.step(vm), fence, 600)
        return held

    def end(self, vm: int) -> None:
        assert self.ledger.finish_step(self.step(vm), self.fences[vm])

    def due(self) -> list[str]:
        return [step.subject for step in self.ledger.due_steps() if step.name == "plan-vm"]


def test_first_come_first_served_and_the_next_is_called(fleet: Fleet) -> None:
    line = Line(fleet, 3)
    assert line.ask(0, A)
    assert [line.ask(1, A), line.ask(2, A)] == [False, False]
    assert line.ask(1) is False, "it need not say its places again"
    assert line.due() == []
    line.end(0)
    assert line.due() == ["vm01"]
    assert line.ask(2) is False, "a place is kept for the one before it"
    assert line.ask(1)
    assert line.ledger.take_permit(line.step(1), "lab", A), "it has it"
    line.end(1)
    assert line.due() == ["vm02"]
    assert line.ask(2)


def test_nobody_overtakes_at_a_storage_and_others_go_ahead(fleet: Fleet) -> None:
    line = Line(fleet, 5)
    answers = [line.ask(vm, places) for vm, places in enumerate((A, BOTH, A, B))]
    assert answers == [True, False, False, False]
    assert line.ask(4, {"pool/lab": 2, "sr/lab/c": 1}), "its storage has nothing to do with theirs"
    line.end(0)
    assert line.due() == ["vm01"]
    assert line.ask(1)
    line.end(1)
    assert line.due() == ["vm02"], "the pool has no more room"
    line.end(4)
    assert line.due() == ["vm03"]


def test_a_pool_has_its_own_limit(fleet: Fleet) -> None:
    line = Line(fleet, 3)
    answers = [line.ask(vm, {"pool/lab": 2, f"sr/lab/{vm}": 1}) for vm in range(3)]
    assert answers == [True, True, False]
    line.end(1)
    assert line.due() == ["vm02"]


def test_who_waits_for_a_host_is_passed_by_others(fleet: Fleet) -> None:
    line = Line(fleet, 6)
    places = [{"pool/lab": 3, f"sr/lab/{vm}": 1, f"host/lab/{host}": 1} for vm, host in enumerate("hhhi")]
    assert [line.ask(vm, places[vm]) for vm in range(4)] == [True, False, False, True]
    assert line.ask(4, {"pool/lab": 3, "sr/lab/4": 1}), "of a VM that is on no host"
    assert line.ask(5, {"pool/lab": 3, "sr/lab/5": 1}) is False
    line.end(0)
    assert line.due() == ["vm01"], "it was there before vm05"
    line.end(3)
    assert line.due() == ["vm05"]
    line.end(4)
    assert line.due() == []
    assert line.ask(1)
    line.end(1)
    assert line.due() == ["vm02"]


def test_who_is_called_between_the_answer_and_being_put_off_is_due(fleet: Fleet) -> None:
    line = Line(fleet, 2)
    assert line.ask(0, A)
    fence = line.ledger.claim_step(line.step(1), "scheduler")
    assert fence is not None
    assert line.ledger.take_permit(line.step(1), "lab", A) is False
    line.end(0)
    assert line.ledger.put_off_step(line.step(1), fence, 600)
    assert line.due() == ["vm01"]


def test_who_is_called_and_does_not_begin_has_lost_its_place(fleet: Fleet) -> None:
    line = Line(fleet, 3)
    assert [line.ask(vm, A) for vm in range(3)] == [True, False, False]
    line.end(0)
    fleet.clock.advance(TIMING.permit_wait - 0.001)
    line.ledger.sweep()
    assert line.due() == ["vm01"]
    fleet.clock.advance(0.001)
    line.ledger.sweep()
    assert line.due() == ["vm02"], "vm01 was published a moment ago"
    assert line.ask(1) is None, "it has to say its places again"
    assert line.ask(1, A) is False
    assert line.ask(2)
    line.end(2)
    assert line.due() == ["vm01"]
    assert line.ledger.counters()["permits_expired"] == 1


def test_a_permit_dies_with_the_lease_of_its_step(fleet: Fleet) -> None:
    line = Line(fleet, 2)
    assert [line.ask(vm, A) for vm in range(2)] == [True, False]
    fleet.clock.advance(TIMING.step_lease - 1)
    assert line.ledger.renew_step(line.step(0), line.fences[0])
    fleet.clock.advance(TIMING.step_lease - 1)
    line.ledger.sweep()
    assert line.due() == [], "it was renewed"
    fleet.clock.advance(1)
    line.ledger.sweep()
    assert line.due() == ["vm01", "vm00"]
    assert line.ask(0, A) is False
    assert line.ask(1)


def test_a_limit_that_was_raised_lets_nobody_pass(fleet: Fleet) -> None:
    line = Line(fleet, 4)
    raised = {"pool/lab": 4, "sr/lab/a": 3}
    answers = [line.ask(vm, places) for vm, places in enumerate((A, A, raised, raised))]
    assert answers == [True, False, False, False]
    line.end(0)
    assert line.due() == ["vm01", "vm02", "vm03"]


def test_a_step_that_is_done_again_has_its_permit_still(fleet: Fleet) -> None:
    """Its lease has run out and another scheduler has claimed it, before anybody took the permit back."""
    line = Line(fleet, 2)
    assert [line.ask(vm, A) for vm in range(2)] == [True, False]
    fleet.clock.advance(TIMING.step_lease)
    assert line.ask(0)
    line.ledger.sweep()
    assert line.due() == []


def test_who_comes_again_with_other_places_comes_last(fleet: Fleet) -> None:
    line = Line(fleet, 4)
    assert [line.ask(vm, A) for vm in range(3)] == [True, False, False]
    assert line.ask(1, B), "its disk has moved"
    assert line.ask(3, B) is False
    assert line.ask(2, BOTH) is False
    line.end(1)
    assert line.due() == ["vm03"]
    line.end(0)
    line.ask(3)
    line.end(3)
    assert line.due() == ["vm02"]


def test_who_waits_in_a_run_that_is_cancelled_is_told_at_once(fleet: Fleet) -> None:
    line = Line(fleet, 4)
    assert [line.ask(vm, A) for vm in range(3)] == [True, False, False]
    fence = line.ledger.claim_step(line.step(3), "scheduler")
    assert fence is not None
    assert line.ledger.take_permit(line.step(3), "lab", A) is False
    assert line.ledger.cancel("run")
    assert {"vm01", "vm02"} <= set(line.due())
    assert line.ledger.put_off_step(line.step(3), fence, 600)
    assert line.due() == ["vm03"]


def test_nothing_is_left_of_permits_that_were_returned(fleet: Fleet, redis_client: redis.Redis) -> None:
    line = Line(fleet, 4)
    for vm, places in enumerate((A, BOTH, B, A)):
        line.ask(vm, places)
    for vm in (2, 0, 3, 1):
        line.end(vm)
    assert redis_client.keys("*permit*") == [b"cbtfleet:permit-number"]


def test_a_place_in_the_pool_is_asked_for(fleet: Fleet) -> None:
    with pytest.raises(ValueError, match="no limit for pool lab"):
        fleet.ledger.take_permit(Step("run", "plan-vm", "vm"), "lab", {"sr/lab/a": 1})


def test_a_step_that_was_put_off_is_due_later_and_nobodys(fleet: Fleet) -> None:
    line = Line(fleet, 1)
    fence = line.ledger.claim_step(line.step(0), "one")
    assert fence is not None
    assert line.ledger.put_off_step(line.step(0), fence, 3)
    assert not line.ledger.renew_step(line.step(0), fence + 1)
    assert line.due() == []
    fleet.clock.advance(3)
    assert line.due() == ["vm00"]
    another = line.ledger.claim_step(line.step(0), "another")
    assert another is not None
    assert another > fence
    assert not line.ledger.put_off_step(line.step(0), fence, 3)
