"""Every course of two actors with two switches, but those that differ in nothing.

first   1 2 3          4 5 6 7 ...            after = 3
other         1 2                3 4 ...      until = 2
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tests.simulation.turns import Step

Play = Callable[[int, int], Sequence[Step]]


def with_two_switches(first: str, play: Play) -> int:
    """Plays every course of two actors in which `first` is interrupted once, and the other one once: they do
    so many steps each, then `first` goes on to its end, and the other one to its own. Returns how many.

    Left out is a course that differs from one that was played only by the order of two steps that do not
    concern each other: none of them changes what the other one reads or changes.
    """
    alone = play(0, 0)
    played, after, before = 1, 0, [alone]
    while after <= sum(step.actor == first for step in alone):
        row = [alone]
        while True:
            until = len(row)
            course = _moved_other(row[-1], first, after, until) or (
                _moved_first(before[until], first, after, until) if after and until < len(before) else None
            )
            if course is None:
                course = play(after, until)
                played += 1
            row.append(course)
            if until >= sum(step.actor != first for step in course):
                break
        before = row
        after += 1
    return played


def _moved_other(course: Sequence[Step], first: str, after: int, until: int) -> list[Step] | None:
    """The course in which the other one was interrupted a step earlier, with that step in its new place; None
    when that step concerns what `first` did until its end."""
    start = after + until - 1
    index = next((i for i in range(start, len(course)) if course[i].actor != first), None)
    if index is None:
        return [*course]
    step, between = course[index], course[start:index]
    if any(_concern(step, each) for each in between):
        return None
    return [*course[:start], step, *between, *course[index + 1 :]]


def _moved_first(course: Sequence[Step], first: str, after: int, until: int) -> list[Step] | None:
    """The same, of the course in which `first` was interrupted a step earlier."""
    start, index = after - 1, after - 1 + until
    if index >= len(course) or course[index].actor != first:
        return None
    step, between = course[index], course[start:index]
    if any(_concern(step, each) for each in between):
        return None
    return [*course[:start], step, *between, *course[index + 1 :]]


def _concern(one: Step, other: Step) -> bool:
    return _changes(one, other) or _changes(other, one) or bool(set(one.writes) & set(other.writes))


def _changes(one: Step, other: Step) -> bool:
    return any(name.startswith(read) or read.startswith(name) for name in one.writes for read in other.reads)
