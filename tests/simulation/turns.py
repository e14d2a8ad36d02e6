"""Actors that take turns: each is ordinary code in a thread, and one of them runs at a time.

    call --> what the last call left is looked at --> whose turn is it? --> that one's call

Before every call to the pool, the store or the ledger, and in every sleep, an actor comes to a point, where
`choose` says who goes on. So a schedule is what `choose` answers: the same answers, the same course.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

MOST = 5_000
"""Steps of one course: more is an actor that never ends."""

Choose = Callable[[str | None, Mapping[str, int], list[str]], str]
"""Who goes on: whose turn it was (None at first, and after an end), how many steps each has done, who can."""


class CourseOver(BaseException):
    """Another actor has failed: nobody goes on."""


@dataclass
class Step:
    """`reads` are beginnings of names, `writes` are names, of objects in the bucket or on the pool."""

    actor: str
    what: str
    reads: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.actor:6} {self.what}"


@dataclass
class Actor:
    name: str
    work: Callable[[], None]
    steps: int = 0
    ended: bool = False
    error: BaseException | None = None
    turn: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))


class Turns:
    """One course. Outside of it (while a world is made) every point is passed at once."""

    def __init__(self) -> None:
        self.trace: list[Step] = []
        self.clock = 0.0
        """Seconds: it moves when somebody sleeps."""
        self._actors: dict[str, Actor] = {}
        self._here = threading.local()
        self._stopped = False
        self._choose: Choose
        self._watch: Callable[[], None]

    def play(self, actors: Iterable[Actor], choose: Choose, watch: Callable[[], None]) -> None:
        """To the end of all actors. `watch` looks at the world after each step. Raises what an actor or
        `watch` raises first."""
        self._actors = {actor.name: actor for actor in actors}
        self._choose, self._watch = choose, watch
        threads = [threading.Thread(target=self._act, args=[actor]) for actor in self._actors.values()]
        for thread in threads:
            thread.start()
        self._next(None).turn.release()
        for thread in threads:
            thread.join()
        for actor in self._actors.values():
            if actor.error is not None:
                raise actor.error

    def point(self, what: str) -> Step:
        """Returns when it is the calling actor's turn to do `what`."""
        actor: Actor | None = getattr(self._here, "actor", None)
        if actor is None:
            return Step("", what)
        if len(self.trace) > MOST:
            raise RuntimeError("this course does not end")
        self._watch()
        following = self._next(actor.name)
        if following is not actor:
            following.turn.release()
            self._wait(actor)
        actor.steps += 1
        self.trace.append(Step(actor.name, what))
        return self.trace[-1]

    # in place of the module `time`

    def monotonic(self) -> float:
        return self.clock

    def sleep(self, seconds: float) -> None:
        self.point(f"sleeps {seconds:g} s")
        self.clock += seconds

    def _act(self, actor: Actor) -> None:
        self._here.actor = actor
        try:
            self._wait(actor)
            actor.work()
            actor.ended = True
            self._watch()
            if not all(each.ended for each in self._actors.values()):
                self._next(None).turn.release()
        except CourseOver:
            pass
        except BaseException as error:  # noqa: BLE001 raised again by `play`
            actor.error = error
            self._stopped = True
            for each in self._actors.values():
                each.turn.release()

    def _wait(self, actor: Actor) -> None:
        actor.turn.acquire()
        if self._stopped:
            raise CourseOver

    def _next(self, current: str | None) -> Actor:
        able = [name for name, actor in self._actors.items() if not actor.ended]
        if len(able) == 1:
            return self._actors[able[0]]
        steps = {name: actor.steps for name, actor in self._actors.items()}
        return self._actors[self._choose(current, steps, able)]
