"""The one task of the data plane: a grant arrives, its stream is worked off."""

from __future__ import annotations

import logging
import os
import socket
from functools import cached_property
from typing import Any

from celery import Celery, Task

from workers.errors import CbtfleetError
from workers.fleet import Ledger
from workers.messages import STREAM_QUEUE, STREAM_TASK, Grant
from workers.repository import load_worker_keys, open_store
from workers.settings import Settings
from workers.stream import StreamContext, run_stream

log = logging.getLogger(__name__)


def node_name() -> str:
    """This worker node's name in the ledger. One machine may run several nodes."""
    return f"{socket.gethostname()}:{os.getpid()}"


class StreamTask(Task):  # type: ignore[misc]
    """Keeps what every stream of one process shares; opened at the first grant, which is after the fork."""

    name = STREAM_TASK
    queue = STREAM_QUEUE
    ignore_result = True
    acks_late = False

    def __init__(self, settings: Settings, node: str) -> None:
        self._settings = settings
        self._node = node

    @cached_property
    def _context(self) -> StreamContext:
        store = open_store(self._settings.repository)
        return StreamContext(
            settings=self._settings,
            ledger=Ledger.open(self._settings),
            store=store,
            keys=load_worker_keys(store, self._settings.repository),
            owner=f"{self._node}/{os.getpid()}",
        )

    def run(self, grant: dict[str, Any]) -> None:
        try:
            run_stream(self._context, Grant.from_message(grant))
        except CbtfleetError as error:  # Redis is away, say: the ledger takes the slot back by itself
            log.warning("a stream ended: %s", error)


def register_stream_task(app: Celery, settings: Settings, node: str) -> None:
    app.register_task(StreamTask(settings, node))
