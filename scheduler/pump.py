"""The pump: takes back what expired, turns free slots into grants, and publishes grants and due steps.

What it could not publish the ledger makes due again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

from celery import Celery
from kombu.exceptions import OperationalError

from scheduler.background_loop import BackgroundLoop
from workers.broker import queued
from workers.errors import CbtfleetError
from workers.fleet import Ledger
from workers.messages import STEP_QUEUE, STEP_TASK, STREAM_QUEUE, STREAM_TASK

TRY_AGAIN = 1.0
"""Seconds after a failure, however many there were: a Redis that is back is not to wait for us."""


MOST_QUEUED = 64
"""Steps that wait in the queue. A step that nobody claims is due again after `Timing.step_republish`: with
thousands of them due, and all threads waiting for a pool, the queue would grow by thousands each time."""


class NotPublished(CbtfleetError):
    """The broker took no message."""


class Pump(BackgroundLoop):
    """Between two rounds it waits in Redis, until there may be something to do, for a second at most."""

    def __init__(
        self,
        ledger: Ledger,
        app: Celery,
        done: Callable[[float, int, int], None] = lambda seconds, steps, grants: None,
    ) -> None:
        """`done` hears of each round: its seconds without the wait, steps and grants published."""
        super().__init__("pump", "handing out work", pause=0.0, back_off=(TRY_AGAIN, TRY_AGAIN))
        self._ledger = ledger
        self._app = app
        self._done = done

    def round(self) -> None:
        began = time.monotonic()
        self._ledger.sweep()
        room = MOST_QUEUED - self._queued()
        steps = self._ledger.due_steps(room) if room > 0 else []
        self._publish(STEP_TASK, STEP_QUEUE, [step.as_message() for step in steps])
        grants = self._ledger.admit()
        self._publish(STREAM_TASK, STREAM_QUEUE, [grant.as_message() for grant in grants])
        self._done(time.monotonic() - began, len(steps), len(grants))
        if not self.stopping():
            more_are_due = len(steps) >= room
            self._ledger.wait_for_work(0.1 if more_are_due else 1.0)

    def _queued(self) -> int:
        try:
            return queued(self._app, STEP_QUEUE)
        except OperationalError as error:
            raise NotPublished(f"nothing can be published: {error}") from error

    def _publish(self, task: str, queue: str, messages: Sequence[Mapping[str, object]]) -> None:
        if not messages:
            return
        try:
            with self._app.producer_or_acquire() as producer:
                for message in messages:
                    self._app.send_task(
                        task, args=[message], queue=queue, ignore_result=True, producer=producer
                    )
        except OperationalError as error:
            raise NotPublished(f"nothing can be published: {error}") from error
