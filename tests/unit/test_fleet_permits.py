"""Turns of control steps: so many at a place, in order, given back whatever happens."""

from __future__ import annotations

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

    def step(self, vm: int) -> Step:
        return Step("run", "plan-vm", f"vm{vm:02}")

    def ask(self, vm: int, places: dict[str, int] | None = None) -> int | None:
        """As a scheduler does it: claimed, asked, put off without a permit."""
        fence = self.ledger.claim_step(self.step(vm), "scheduler")
        assert fence is not None
        self.fences[vm] = fence
        position = self.ledger.take_permit(self.step(vm), "lab", places)
        if position != 0:
            assert self.ledger.put_off_step(self.step(vm), fence, 30)
        return position

    def end(self, vm: int) -> None:
        assert self.ledger.finish_step(self.step(vm), self.fences[vm])

    def due(self) -> list[str]:
        return [step.subject for step in self.ledger.due_steps() if step.name == "plan-vm"]


def test_first_come_first_served_and_the_next_is_told(fleet: Fleet) -> None:
    line = Line(fleet, 3)
    line.due()
    assert line.ask(0, A) == 0
    fleet.clock.advance(0.1)
    assert line.ask(1, A) == 1
    fleet.clock.advance(0.1)
    assert line.ask(2, A) == 2
    assert line.ask(1) == 1, "it need not say its places again"
    assert line.due() == []
    line.end(0)
    assert line.due() == ["vm01"]
    assert line.ask(2) == 2, "another is before it although the place is free"
    assert line.ask(1) == 0
    assert line.ledger.take_permit(line.step(1), "lab", A) == 0, "it has it"
    line.end(1)
    assert line.ask(2) == 0


def test_nobody_overtakes_at_a_storage_and_others_go_ahead(fleet: Fleet) -> None:
    line = Line(fleet, 5)
    for vm, places, position in ((0, A, 0), (1, BOTH, 1), (2, A, 2), (3, B, 3)):
        assert line.ask(vm, places) == position
        fleet.clock.advance(0.1)
    assert line.ask(4, {"pool/lab": 2, "sr/lab/c": 1}) == 0, "its storage has nothing to do with theirs"
    line.end(0)
    assert line.ask(3) == 3
    assert line.ask(1) == 0


def test_a_pool_has_its_own_limit(fleet: Fleet) -> None:
    line = Line(fleet, 3)
    assert [line.ask(vm, {"pool/lab": 2, f"sr/lab/{vm}": 1}) for vm in range(3)] == [0, 0, 1]


def test_who_does_not_ask_and_who_does_not_renew_is_gone(fleet: Fleet) -> None:
    line = Line(fleet, 3)
    assert line.ask(0, A) == 0
    assert line.ask(1, A) == 1
    fleet.clock.advance(TIMING.permit_wait - 1)
    assert line.ledger.renew_step(line.step(0), line.fences[0])
    assert line.ask(2, A) == 2
    fleet.clock.advance(2)
    assert line.ask(2) == 1, "the one before it has not asked for too long"
    fleet.clock.advance(TIMING.step_lease)
    assert line.ask(1) is None, "it has to say its places again"
    assert line.ask(1, A) == 0, "the holder's lease has run out, and the other has not asked"


def test_who_waits_in_a_run_that_is_cancelled_is_told_at_once(fleet: Fleet) -> None:
    line = Line(fleet, 3)
    line.due()
    assert [line.ask(vm, A) for vm in range(3)] == [0, 1, 2]
    assert line.ledger.cancel("run")
    assert {"vm01", "vm02"} <= set(line.due())


def test_a_step_that_was_put_off_is_due_later_and_nobodys(fleet: Fleet) -> None:
    line = Line(fleet, 1)
    line.due()
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
