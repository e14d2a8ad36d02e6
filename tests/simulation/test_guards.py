"""Each proof that is taken away is missed: some course then breaks what judge.py asks for.

No course sees these, as another check stands before them: test_proofs.py has a VM snapshot of a run at work,
a restore point that cannot be read, a disk and a base that are gone, and a host's VBDs.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.simulation.broken_guards import GUARDS, Guard
from tests.simulation.courses import Scenario, play
from tests.simulation.judge import Violation
from tests.simulation.schedules import at_random, switched
from tests.simulation.two_switches import with_two_switches

ENDS = Scenario("all of them at the runs' ends", left=True, orphans=True, person=True, late=True)
LATE = Scenario("A is cancelled", a="is cancelled", late=True)


def _at_random() -> None:
    for seed in range(400):
        play(ENDS, at_random(seed), f"at_random({seed})", set())


def _switched() -> None:
    good_ends: set[str] = set()
    with_two_switches(
        "A",
        lambda after, until: play(LATE, switched("A", after, until), f"{after}, {until}", good_ends),
    )


_NEEDS_TWO_SWITCHES = "first whether a run is at work, then which point is the newest"


@pytest.mark.parametrize("guard", GUARDS, ids=str)
def test_a_proof_that_is_taken_away_is_missed(guard: Guard) -> None:
    courses: Callable[[], None] = _switched if guard.name == _NEEDS_TWO_SWITCHES else _at_random
    with guard.taken_away(), pytest.raises(Violation):
        courses()


def test_a_guard_is_there_again_afterwards() -> None:
    for guard in GUARDS:
        with guard.taken_away():
            pass
    play(ENDS, at_random(0), "at_random(0)", set())
