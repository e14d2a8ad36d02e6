"""A look that may hang or fail, in a thread of its own, so that nothing else waits for it or ends with it."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Generic, TypeVar

from scheduler.checks.check import Check, Subject
from workers.errors import CbtfleetError

log = logging.getLogger(__name__)

T_co = TypeVar("T_co", covariant=True)


class NotInTime(CbtfleetError):
    """The look did not end before its deadline; its thread is left to itself."""


class Attempt(Generic[T_co]):
    """`call` runs at once. A daemon thread: one that hangs does not keep the process from ending."""

    def __init__(self, call: Callable[[], T_co], seconds: float) -> None:
        self._until = time.monotonic() + seconds
        self._seconds = seconds
        self._future: Future[T_co] = Future()
        threading.Thread(target=self._run, args=(call,), name="doctor", daemon=True).start()

    def result(self) -> T_co:
        """What `call` returned. Raises what it raised, or NotInTime."""
        try:
            return self._future.result(max(0.0, self._until - time.monotonic()))
        except TimeoutError:
            if self._future.done():
                raise
            raise NotInTime(f"no answer within {self._seconds:g} s") from None

    def _run(self, call: Callable[[], T_co]) -> None:
        try:
            self._future.set_result(call())
        except BaseException as error:  # noqa: BLE001  (whoever asks for the result gets it)
            self._future.set_exception(error)


def checks_of(subject: Subject, name: str, look: Callable[[], list[Check]]) -> list[Check]:
    """What `look` found; when it cannot look, one Check that says why."""
    try:
        return look()
    except CbtfleetError as error:
        return [subject.warning(name, f"could not be looked at: {error}", "set that right, and look again")]
    except Exception as error:
        log.debug("%s: %s", subject.title, name, exc_info=True)
        said = f"could not be looked at: unexpected {type(error).__name__}"
        return [subject.warning(name, said, "report this; CBTFLEET_DEBUG=1 shows where it happened")]
