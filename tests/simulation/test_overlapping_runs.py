"""Two runs of one policy at the same time: whatever the order of their steps, judge.py finds nothing."""

from __future__ import annotations

import pytest

from tests.simulation.courses import Scenario, play
from tests.simulation.schedules import at_random, switched
from tests.simulation.two_switches import with_two_switches

CANCELLED = Scenario("A is cancelled", a="is cancelled")
BOTH = Scenario("both commit")
IN_PART = Scenario("one of A's two disks fails", disks=2, a="fails in part", late=True)
LOOK = Scenario("a look for orphans beside A", b=None, orphans=True, late=True)
PERSON = Scenario("a person beside A", a="is cancelled", b=None, left=True, person=True, late=True)

SEEDS = range(100)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("scenario", "first"),
    [
        (CANCELLED, "A"),
        (CANCELLED, "B"),
        (BOTH, "A"),  # B is as A
        (IN_PART, "A"),
        (LOOK, "A"),
        (LOOK, "look"),
        (PERSON, "A"),
        (PERSON, "person"),
    ],
    ids=str,
)
def test_every_course_with_two_switches(scenario: Scenario, first: str) -> None:
    good_ends: set[str] = set()
    played = with_two_switches(
        first,
        lambda after, until: play(
            scenario, switched(first, after, until), f"switched({first!r}, {after}, {until})", good_ends
        ),
    )
    assert played > 30, f"only {played} courses: too many were taken for the same"


@pytest.mark.parametrize(
    "scenario",
    [
        Scenario("a look beside runs and what is left", a="is cancelled", left=True, orphans=True),
        Scenario("a look beside two disks", disks=2, a="fails in part", orphans=True),
        Scenario("a person beside runs", left=True, person=True),
        Scenario("all of them at the runs' ends", left=True, orphans=True, person=True, late=True),
    ],
    ids=str,
)
def test_courses_at_random(scenario: Scenario) -> None:
    good_ends: set[str] = set()
    for seed in SEEDS:
        play(scenario, at_random(seed), f"at_random({seed})", good_ends)


def test_a_cancelled_run_looks_again_after_the_other_has_committed() -> None:
    """Wherever it stands with its clean-up when the other one plans, reads, commits and ends."""
    good_ends: set[str] = set()
    after, steps = 0, 1
    while after < steps:
        course = play(CANCELLED, switched("A", after, 10_000), f'switched("A", {after}, 10_000)', good_ends)
        steps = sum(step.actor == "A" for step in course)
        after += 1


def test_a_run_whose_base_goes_while_it_asks_for_the_changes_since_reads_all() -> None:
    """The other one has committed and cleaned up in between; this was a failed disk."""
    alone = play(BOTH, switched("A", 0, 0), "A alone", set())
    mine = [step.what for step in alone if step.actor == "B"]
    asks = next(at for at, what in enumerate(mine) if what.startswith("VDI.list_changed_blocks"))
    course = play(BOTH, switched("B", asks, 10_000), f'switched("B", {asks}, 10_000)', set())
    committed = [step.what for step in course if step.what.startswith("put points/")]
    assert len(committed) == 2, committed
