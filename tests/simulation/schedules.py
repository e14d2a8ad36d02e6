"""Who goes on at each point of a course, decided beforehand."""

from __future__ import annotations

import random
from collections.abc import Mapping

from tests.simulation.turns import Choose


def at_random(seed: int) -> Choose:
    """Whose turn it is goes on four times of five."""
    rolls = random.Random(seed)

    def choose(current: str | None, steps: Mapping[str, int], able: list[str]) -> str:
        if current in able and rolls.random() < 0.8:
            return current
        return rolls.choice(able)

    return choose


def switched(first: str, after: int, until: int) -> Choose:
    """`first` does so many steps, then the others `until` so many, then it goes on to its end."""

    def choose(current: str | None, steps: Mapping[str, int], able: list[str]) -> str:
        others = [name for name in able if name != first]
        done = sum(count for name, count in steps.items() if name != first)
        if first in able and (steps[first] < after or done >= until):
            return first
        return others[0]

    return choose
