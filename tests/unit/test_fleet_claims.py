"""What is called while a control step is done changes nothing once the claim is not the step's any more."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from tests.fleet_clock import Fleet
from workers.fleet import Ledger, Step, StepLost

PLAN_RUN = Step("run", "plan-run", "")
PLAN_VM = Step("run", "plan-vm", "vm")
FINISH_VM = Step("run", "finish-vm", "vm")
END_RUN = Step("run", "end-run", "")

Change = Callable[[Ledger], object]
CHANGES: list[tuple[Step, Change]] = [
    (PLAN_RUN, lambda ledger: ledger.set_run_facts("run", b"changed")),
    (PLAN_RUN, lambda ledger: ledger.add_vms("run", {"another": b""})),
    (PLAN_VM, lambda ledger: ledger.take_permit(PLAN_VM, "lab", {"pool/lab": 1})),
    (PLAN_VM, lambda ledger: ledger.set_vm_facts("run", "vm", b"changed")),
    (PLAN_VM, lambda ledger: ledger.start_vm("run", "vm", [])),
    (FINISH_VM, lambda ledger: ledger.finish_vm("run", "vm", b"changed")),
    (END_RUN, lambda ledger: ledger.end_run("run", b"changed")),
]


def lead_to(ledger: Ledger, step: Step) -> None:
    """A new run, as it is when this step is due."""
    ledger.create_run("run", b"")
    if step != PLAN_RUN:
        ledger.add_vms("run", {"vm": b""})
    if step in (FINISH_VM, END_RUN):
        ledger.start_vm("run", "vm", [])
    if step == END_RUN:
        ledger.finish_vm("run", "vm")
    assert step in ledger.due_steps()


def claim(fleet: Fleet, step: Step, owner: str) -> int:
    fence = fleet.ledger.claim_step(step, owner)
    assert fence is not None
    return fence


def its_lease_runs_out(fleet: Fleet, step: Step) -> None:
    fleet.clock.advance(fleet.ledger.timing.step_lease)


def redis_loses_everything(fleet: Fleet, step: Step) -> None:
    fleet.clock.advance(1)
    fleet.clock.flush()
    lead_to(fleet.ledger, step)


@pytest.mark.parametrize("lose", [its_lease_runs_out, redis_loses_everything])
@pytest.mark.parametrize(("step", "change"), CHANGES)
def test_a_claim_that_was_lost_changes_nothing(
    fleet: Fleet, step: Step, change: Change, lose: Callable[[Fleet, Step], None]
) -> None:
    lead_to(fleet.ledger, step)
    lost = claim(fleet, step, "paused")
    lose(fleet, step)
    for fence in (claim(fleet, step, "other"), lost):
        state = fleet.ledger.run_state("run"), fleet.ledger.progress("run")
        if fence == lost:
            with (
                fleet.ledger.holding(step, fence),
                pytest.raises(StepLost, match="is no longer ours"),
            ):
                change(fleet.ledger)
            assert (fleet.ledger.run_state("run"), fleet.ledger.progress("run")) == state
        else:
            with fleet.ledger.holding(step, fence):
                change(fleet.ledger)


def test_a_claim_that_nobody_took_over_is_lost_with_redis(fleet: Fleet) -> None:
    lead_to(fleet.ledger, PLAN_VM)
    fence = claim(fleet, PLAN_VM, "paused")
    redis_loses_everything(fleet, PLAN_VM)
    with fleet.ledger.holding(PLAN_VM, fence), pytest.raises(StepLost):
        fleet.ledger.set_vm_facts("run", "vm", b"changed")
    fleet.ledger.set_vm_facts("run", "vm", b"changed")  # no step's call


def test_a_claim_is_the_threads_own(fleet: Fleet) -> None:
    lead_to(fleet.ledger, PLAN_RUN)
    with fleet.ledger.holding(PLAN_RUN, 1):
        elsewhere = threading.Thread(target=fleet.ledger.set_run_facts, args=("run", b"changed"))
        elsewhere.start()
        elsewhere.join()
    assert fleet.ledger.run_facts("run") == b"changed"
