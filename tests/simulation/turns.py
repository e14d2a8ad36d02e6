"""Actors that take turns: each is ordinary code in a thread, and one of them runs at a time.

    call --> what the last call left is looked at --> whose turn is it? --> that one's call

Before every call to the pool, the store or the ledger, and in every sleep, an actor comes to a point, where
`choose` says who goes on. So a schedule is what `choose` answers: the same answers, the same course.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

MOST = 50_000
"""Points in one course: more is an actor that never ends."""

Choose = Callable[[str | None, Mapping[str, int], list[str]], str]
"""Who goes on: whose turn it was (None at first, and after an end), how many calls each has made, who can."""


def always() -> bool:
    return True


@dataclass
class Actor:
    """`begins` says when its first turn may come."""

    name: str
    work: Callable[[], None]
    begins: Callable[[], bool] = always
    calls: int = 0
    ended: bool = False
    error: BaseException | None = None
    _go: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self._go.acquire()

    def wait(self) -> None:
        self._go.acquire()

    def go(self) -> None:
        self._go.release()


class Turns:
    """One course. Outside of it (while a world is made) every point is passed at once."""

    def __init__(self) -> None:
        self.trace: list[tuple[str, str]] = []
        """Who did what, in order."""
        self.clock = 0.0
        """Seconds: it moves when somebody sleeps."""
        self._actors: dict[str, Actor] = {}
        self._here = threading.local()
        self._choose: Choose = _first
        self._watch: Callable[[], None] = lambda: None
        self._over = threading.Event()

    def play(self, actors: Iterable[Actor], choose: Choose, watch: Callable[[], None]) -> None:
        """To the end of all actors. `watch` looks at the world between two calls. Raises what an actor
        raises."""
        self._actors = {actor.name: actor for actor in actors}
        self._choose, self._watch = choose, watch
        threads = [
            threading.Thread(target=self._act, args=[actor], name=actor.name)
            for actor in self._actors.values()
        ]
        for thread in threads:
            thread.start()
        self._next(None).go()
        self._over.wait()
        for thread in threads:
            thread.join()
        for actor in self._actors.values():
            if actor.error is not None:
                raise actor.error

    def point(self, what: str) -> None:
        """Returns when it is the calling actor's turn to do `what`."""
        actor = getattr(self._here, "actor", None)
        if actor is None:
            return
        if len(self.trace) > MOST:
            raise RuntimeError("this course does not end")
        self._watch()
        following = self._next(actor.name)
        if following is not actor:
            following.go()
            actor.wait()
        actor.calls += 1
        self.trace.append((actor.name, what))

    def who(self) -> str:
        """The actor whose turn it is; "" outside of a course."""
        actor = getattr(self._here, "actor", None)
        return "" if actor is None else actor.name

    # in place of the module `time`

    def monotonic(self) -> float:
        return self.clock

    def sleep(self, seconds: float) -> None:
        self.clock += seconds
        self.point(f"sleeps {seconds:g} s")

    def _act(self, actor: Actor) -> None:
        self._here.actor = actor
        actor.wait()
        try:
            actor.work()
        except BaseException as error:  # noqa: BLE001 raised again by `play`
            actor.error = error
        actor.ended = True
        self._watch()
        if all(each.ended for each in self._actors.values()):
            self._over.set()
        else:
            self._next(None).go()

    def _next(self, current: str | None) -> Actor:
        able = [
            name
            for name, actor in self._actors.items()
            if not actor.ended and (actor.calls or actor.name == current or actor.begins())
        ]
        if not able:
            raise RuntimeError("nobody can go on")
        if len(able) == 1:
            return self._actors[able[0]]
        calls = {name: actor.calls for name, actor in self._actors.items()}
        return self._actors[self._choose(current, calls, able)]


def _first(current: str | None, calls: Mapping[str, int], able: list[str]) -> str:
    return able[0]
