"""One course: runs of one policy, and whoever else acts on the pool, by one schedule."""

from __future__ import annotations

from collections.abc import Sequence
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
    """`a` and `b`: what becomes of the runs; None: there is no such run.

    `late`: they begin with their last steps, after both have planned and read. `left`: a third run ended long
    ago without cleaning up. `orphans` and `person`: a look for orphans, a person beside them.
    """

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
    """What happened, in order. Raises Violation, or RuntimeError for an actor's, with the
    schedule, as it was `said`, and all steps."""
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
        except Exception as error:
            course = "\n".join(str(step) for step in world.turns.trace)
            kind = Violation if isinstance(error, Violation) else RuntimeError
            raise kind(f"{scenario}, {said}: {error}\n{course}") from error
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
