"""One course: runs of one policy, and whoever else acts on the pool, from the same beginning by one schedule."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

from scheduler.pool_objects.garbage_collector import clean_pool
from scheduler.pool_objects.snapshots import snapshot_name
from tests.simulation.judge import Judge, Violation
from tests.simulation.person import act
from tests.simulation.run import Run
from tests.simulation.turns import Actor, Choose, Step
from tests.simulation.world import World

FIRST = "20260101T000000Z-first0"
RUN_A = "20260101T010000Z-aaaaaa"
RUN_B = "20260101T020000Z-bbbbbb"
LEFT = "20260101T003000Z-left00"


@dataclass(frozen=True)
class Scenario:
    """`a` and `b`: what becomes of the runs; None: there is no such run. `late`: they begin with their last
    steps, after both have planned and read. `left`: a third run ended without cleaning up, long ago. `orphans`
    and `person` act beside them."""

    name: str
    disks: int = 1
    a: str | None = "commits"
    b: str | None = "commits"
    late: bool = False
    left: bool = False
    orphans: bool = False
    person: bool = False

    def __str__(self) -> str:
        return self.name


def play(scenario: Scenario, choose: Choose, said: str, good_ends: set[str]) -> Sequence[Step]:
    """What happened, in order. Raises Violation with the schedule, as it was `said`, and all steps."""
    world = _beginning(scenario.disks, scenario.left).copy()
    runs = {
        name: _run(world, run, fate)
        for name, run, fate in (("A", RUN_A, scenario.a), ("B", RUN_B, scenario.b))
        if fate is not None
    }
    judge = Judge(world, list(runs.values()), good_ends)
    actors = [Actor(name, run.to_its_end if scenario.late else run) for name, run in runs.items()]
    if scenario.orphans:
        actors.append(Actor("look", lambda: _look_for_orphans(world)))
    if scenario.person:
        actors.append(Actor("person", lambda: act(world)))
    with world.time():
        for run in runs.values() if scenario.late else ():
            run.plan()
            run.stream()
        try:
            world.turns.play(actors, choose, judge.look)
            steps = list(world.turns.trace)
            judge.end()
        except Violation as violation:
            course = "\n".join(str(step) for step in world.turns.trace)
            raise Violation(f"{scenario}, {said}: {violation}\n{course}") from None
    return steps


def _run(world: World, name: str, fate: str) -> Run:
    return Run(world, name, cancelled=fate == "is cancelled", unread=int(fate == "fails in part"))


def _look_for_orphans(world: World) -> None:
    clean_pool(world.context("orphans"), "lab", lambda: False)


@cache
def _beginning(disks: int, left: bool) -> World:
    """A pool on which each disk has its base."""
    world = World(disks)
    with world.time():
        Run(world, FIRST)()
        if left:
            run = Run(world, LEFT, refusals=6)
            run.plan()
            run.stream()
            # sent again after its answer was lost, and nobody came to tag it
            world.pool.do(LEFT, "VM.snapshot", world.vm.ref, snapshot_name(LEFT))
            run.end()
    return world


# Schedules


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
