"""Long calls as XAPI tasks: started, polled, cancelled when we stop waiting, and always destroyed."""

from __future__ import annotations

import logging
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from workers.errors import CbtfleetError
from workers.xenapi.blockers import what_blocks
from workers.xenapi.errors import (
    AnswerLost,
    BadAnswer,
    CallCancelled,
    CallTimedOut,
    PoolUnreachable,
    SessionLost,
    XapiFailure,
)
from workers.xenapi.records import XapiRecord, is_gone

log = logging.getLogger(__name__)

_POLL_FIRST, _POLL_LONGEST, _POLL_GROWTH = 0.05, 2.0, 1.5
_POLLS_LOST = 3  # polling changes nothing, so a broken poll may be repeated this often
_BUSY_NOW = ("OTHER_OPERATION_IN_PROGRESS", "TOO_MANY_PENDING_TASKS")
_BUSY_FIRST, _BUSY_LONGEST, _BUSY_GROWTH = 1.0, 15.0, 2.0
_QUEUE_SECONDS = 120.0  # how long to ask again an object that is busy; the call has run nothing then
_CANCEL_SECONDS = 10.0  # cancelling is cooperative: a snapshot half made is made whole
_ENDED = ("success", "failure", "cancelled")
_NO_TASK_MODE = ("Fault", "MESSAGE_METHOD_UNKNOWN")


def never() -> bool:
    return False


class Caller(Protocol):
    pool: str

    def call(self, method: str, *args: Any) -> Any: ...

    def aside(self, method: str, *args: Any) -> Any:
        """A call beside the point, in a hurry: None when it fails."""

    def failure(self, code: str, params: list[str], method: str) -> XapiFailure: ...


def run_when_free(
    session: Caller, method: str, args: tuple[Any, ...], deadline: float, cancelled: Callable[[], bool]
) -> str:
    """Runs a task to its end, again while the object is busy and nothing was begun."""
    until = time.monotonic() + deadline
    give_up = min(until, time.monotonic() + _QUEUE_SECONDS)
    pause = _BUSY_FIRST
    while True:
        try:
            return _Task(session, method, args, until, cancelled).run()
        except XapiFailure as failure:
            if failure.code not in _BUSY_NOW or time.monotonic() + pause > give_up:
                raise
            log.debug("%s", failure)
        _sleep(pause, cancelled)
        if cancelled():
            raise CallCancelled(
                f"pool {session.pool}: {method} was not begun: we were told to stop", ended=True
            )
        pause = min(pause * _BUSY_GROWTH, _BUSY_LONGEST)


class _Task:
    def __init__(
        self,
        session: Caller,
        method: str,
        args: tuple[Any, ...],
        until: float,
        cancelled: Callable[[], bool],
    ) -> None:
        self._session = session
        self._method = method
        self._args = args
        self._until = until
        self._cancelled = cancelled
        self._name = f"pool {session.pool}: {method}"

    def run(self) -> str:
        try:
            task = self._session.call(f"Async.{self._method}", *self._args)
        except XapiFailure as failure:
            if failure.code not in _NO_TASK_MODE:
                raise
            return str(self._session.call(self._method, *self._args))
        try:
            record = self._wait(task)
        except BaseException as error:
            self._session.aside("task.cancel", task)
            if isinstance(error, CbtfleetError) and not isinstance(error, AnswerLost | CallCancelled):
                raise self._unasked(error) from error
            raise
        finally:
            self._session.aside("task.destroy", task)
        if record["status"] == "success":
            return _result(self._name, record.get("result", ""))
        unexplained = "TASK_CANCELLED" if record["status"] == "cancelled" else "INTERNAL_ERROR"
        code, *params = record.get("error_info") or [unexplained]
        raise self._session.failure(code, params, self._method)

    def _wait(self, task: Any) -> XapiRecord:
        """The record of the task that has ended."""
        pause, lost = _POLL_FIRST, 0
        while True:
            try:
                record = self._poll(task)
                if record["status"] in _ENDED:
                    return record
                lost = 0
            except (PoolUnreachable, SessionLost, AnswerLost) as error:
                lost += 1
                if lost > _POLLS_LOST or isinstance(error, _Vanished):
                    raise
            if self._cancelled():
                return self._stopped(task)
            remaining = self._until - time.monotonic()
            if remaining <= 0:
                blocker = what_blocks(self._session.aside, self._method, self._args, str(task))
                raise CallTimedOut(
                    f"{self._name} did not end in time; its task was asked to cancel"
                    + (f"; {blocker}" if blocker else "")
                )
            _sleep(min(pause, remaining), self._cancelled)
            pause = min(pause * _POLL_GROWTH, _POLL_LONGEST)

    def _unasked(self, error: CbtfleetError) -> AnswerLost:
        """What became of a poll says nothing of the call: that was begun, and may end without us."""
        why = str(error).removeprefix(f"pool {self._session.pool}: ")
        return AnswerLost(f"{self._name} was begun, and its task can no longer be asked: {why}")

    def _stopped(self, task: Any) -> XapiRecord:
        """Cancels. The task's last record when it came to its end all the same; else raises CallCancelled."""
        self._session.aside("task.cancel", task)
        until = time.monotonic() + _CANCEL_SECONDS
        pause = _POLL_FIRST
        while time.monotonic() < until:
            record = self._session.aside("task.get_record", task)
            status = record.get("status") if isinstance(record, Mapping) else None
            if status in ("success", "failure"):
                assert isinstance(record, Mapping)
                return record
            if status == "cancelled":
                raise CallCancelled(f"{self._name} was cancelled: we were told to stop", ended=True)
            time.sleep(pause)
            pause = min(pause * _POLL_GROWTH, _POLL_LONGEST)
        raise CallCancelled(
            f"{self._name} was asked to cancel and has not ended yet; look what it made", ended=False
        )

    def _poll(self, task: Any) -> XapiRecord:
        try:
            record = self._session.call("task.get_record", task)
        except XapiFailure as failure:
            if is_gone(failure):
                raise _Vanished(
                    f"pool {self._session.pool}: the task of {self._method} vanished; was XAPI restarted?"
                ) from None
            raise
        if not isinstance(record, Mapping) or "status" not in record:
            raise BadAnswer(f"pool {self._session.pool}: the task of {self._method} has no status")
        return record


class _Vanished(AnswerLost):
    """The pool no longer knows the task."""


def _sleep(seconds: float, cancelled: Callable[[], bool]) -> None:
    """In pieces, so that being told to stop is noticed soon."""
    if cancelled is never:
        time.sleep(seconds)
        return
    until = time.monotonic() + seconds
    while not cancelled() and (left := until - time.monotonic()) > 0:
        time.sleep(min(left, 0.25))


def _result(name: str, text: str) -> str:
    """XAPI wraps a task's result as `<value>…</value>`; nothing for void. Bare text is taken as it is."""
    if not text.lstrip().startswith("<"):
        return text
    pool, method = name.rsplit(": ", 1)
    try:
        value = ElementTree.fromstring(text)
    except ElementTree.ParseError as error:
        raise BadAnswer(f"{pool}: the result of {method} is not XML") from error
    if value.tag != "value" or value.find(".//array") is not None or value.find(".//struct") is not None:
        raise BadAnswer(f"{pool}: the result of {method} is not a single value")
    return "".join(value.itertext())
