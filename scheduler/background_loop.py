"""What the scheduler does again and again beside its steps: rounds in a thread, until it is told to stop.

start -> round --works--> pause, or wake --> round ...           stop -> the round in hand ends, `finish`
           |
           +--fails--> back-off, longer with each failure in a row --> round ...
           +--cannot go on--> the process ends with DIED: whoever supervises it starts it again
                                                                  (docs/adr/0087)
"""

from __future__ import annotations

import logging
import math
import os
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from contextlib import AbstractContextManager, ExitStack
from typing import NoReturn

from scheduler.outages import Outages
from workers.logs import bind

log = logging.getLogger(__name__)

DIED = 1
"""The exit code of a process in which a loop died."""


class BackgroundLoop(ABC):
    """Does `round` for ever. Nothing ends it but `stop`, or a failure that it cannot outlive.

    `last_success` is the last moment (seconds since 1970, 0.0 before the first) at which a round ended and
    nothing that this loop does was failing; `failures` counts failed tries.
    """

    def __init__(
        self,
        name: str,
        task: str,
        *,
        pause: float,
        back_off: tuple[float, float] = (1.0, 30.0),
        stop_within: float = 15.0,
    ) -> None:
        """`name` is the thread's and the metric's, `task` what a round does, in words for the log.

        In seconds: `pause` from the end of a round to the next; `back_off` after the first round that failed,
        and at most, as it doubles with each further one; `stop_within` is how long `stop` waits.
        """
        self.name = name
        self.last_success = 0.0
        self._task = task
        self._pause = pause
        self._back_off, self._longest = back_off
        self._stop_within = stop_within
        self._outages = Outages()
        self._changed = threading.Condition()
        self._stop_at = math.inf
        self._woken = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    @abstractmethod
    def round(self) -> None:
        """What the loop is for, once. It may raise anything: the next round tries again."""

    def finish(self) -> None:  # noqa: B027 most loops have nothing to give back
        """What the loop's own thread gives back when no round follows. It may raise anything."""

    def trying(self, task: str) -> AbstractContextManager[None]:
        """For a part of a round that must not keep the rest from being done: its failure ends there, and the
        round counts as failed. `task` as in `Outages.trying`."""
        return self._outages.trying(task)

    def parts(self) -> Sequence[BackgroundLoop]:
        """Loops that this one has started, and stops."""
        return ()

    @property
    def failures(self) -> int:
        return self._outages.failures

    def start(self) -> None:
        try:
            self._thread.start()
        except RuntimeError as error:  # the machine has no thread left for us
            _die(self.name, error)

    def wake(self) -> None:
        """Ends a pause, now or the one after the round in hand. A back-off goes on: a wrong password must not
        become a login for every question."""
        with self._changed:
            self._woken = True
            self._changed.notify()

    def stopping(self) -> bool:
        """For rounds that take long: whether to leave the rest."""
        return self._stop_at < math.inf

    def tell_to_stop(self) -> None:
        """Waits for nothing."""
        with self._changed:
            self._stop_at = min(self._stop_at, time.monotonic() + self._stop_within)
            self._changed.notify()

    def stop(self) -> None:
        """Waits for the round in hand, `stop_within` seconds after it was told at the most: then it is left
        to end with the process. Also for a loop that was never started."""
        self.tell_to_stop()
        if self._thread.is_alive():
            self._thread.join(max(0.0, self._stop_at - time.monotonic()))
        if self._thread.is_alive():
            log.warning(
                "the loop %s did not stop within %g s: it ends with the process", self.name, self._stop_within
            )

    def _run(self) -> None:
        try:
            with bind(loop=self.name):
                self._go_round()
        except BaseException as error:  # noqa: BLE001 the process ends here
            _die(self.name, error)

    def _go_round(self) -> None:
        back_off = self._back_off
        while not self.stopping():
            self._woken = False
            before = self.failures
            with self.trying(self._task):
                self.round()
            if self.failures == before:
                back_off = self._back_off
                if not self._outages:
                    self.last_success = time.time()
                self._wait(self._pause, or_woken=True)
            else:
                self._wait(back_off, or_woken=False)
                back_off = min(back_off * 2, self._longest)
        try:
            self.finish()
        except Exception:
            log.exception("the loop %s met something unexpected at its end", self.name)

    def _wait(self, seconds: float, *, or_woken: bool) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self.stopping() or (or_woken and self._woken), seconds)


def stop_all(loops: Collection[BackgroundLoop]) -> None:
    """Tells all of them first, so that they stop together; each is stopped whatever becomes of the others.
    Raises what the last one to fail raised."""
    with ExitStack() as stops:
        for loop in loops:
            stops.callback(loop.stop)
        for loop in loops:
            loop.tell_to_stop()


def _die(name: str, error: BaseException) -> NoReturn:
    """Ends the process without waiting for anything: a scheduler that lacks a loop looks alive, and is not.

    What it had in hand is found by the next one as after a kill.
    """
    try:
        log.critical(
            "the loop %s died of %s: this scheduler ends, with code %d, to be started again",
            name,
            type(error).__name__,
            DIED,
            exc_info=error,
        )
    finally:
        os._exit(DIED)
