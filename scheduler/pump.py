"""The pump: takes back what expired, turns free slots into grants, and publishes grants and due steps.

What it could not publish the ledger makes due again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from celery import Celery
from kombu.exceptions import OperationalError

from scheduler.background_loop import BackgroundLoop
from workers.errors import CbtfleetError
from workers.fleet import Ledger
from workers.messages import STEP_QUEUE, STEP_TASK, STREAM_QUEUE, STREAM_TASK

TRY_AGAIN = 1.0
"""Seconds after a failure, however many there were: a Redis that is back is not to wait for us."""


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
        steps = self._ledger.due_steps()
        for step in steps:
            self._publish(STEP_TASK, STEP_QUEUE, step.as_message())
        grants = self._ledger.admit()
        for grant in grants:
            self._publish(STREAM_TASK, STREAM_QUEUE, grant.as_message())
        self._done(time.monotonic() - began, len(steps), len(grants))
        if not self.stopping():
            self._ledger.wait_for_work(1.0)

    def _publish(self, task: str, queue: str, message: Mapping[str, object]) -> None:
        try:
            self._app.send_task(task, args=[message], queue=queue, ignore_result=True)
        except OperationalError as error:
            raise NotPublished(f"nothing can be published: {error}") from error
