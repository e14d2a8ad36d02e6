"""The one task of the data plane: a grant arrives, its stream is worked off."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable
from functools import cached_property

from celery import Celery, Task, signals

from workers.errors import CbtfleetError
from workers.fleet import Ledger
from workers.logs import bind
from workers.messages import STREAM_TASK, Grant, NotAMessage
from workers.nbd import Deadlines
from workers.repository import load_worker_keys, open_store
from workers.settings import Settings
from workers.stream.reports import NoReports, Reports, ReportsToSupervisor
from workers.stream.stream import StreamContext, run_stream
from workers.xenapi import Sessions

log = logging.getLogger(__name__)


def node_name() -> str:
    """This worker node's name in the ledger. One machine may run several nodes."""
    return f"{socket.gethostname()}:{os.getpid()}"


def report_to(address: str | bytes) -> Reports:
    """This process's end of the supervisor. Without a parent that listens its streams run all the same."""
    try:
        return ReportsToSupervisor.connect(address)
    except OSError as error:
        log.warning("the parent process does not listen: %s", error.strerror)
        return NoReports()


class StreamTask(Task):  # type: ignore[misc]
    """Keeps what every stream of one process shares; opened at the first grant, which is after the fork."""

    name = STREAM_TASK
    ignore_result = True
    acks_late = False

    def __init__(self, settings: Settings, node: str, reports: Callable[[], Reports] = NoReports) -> None:
        self._settings = settings
        self._node = node
        self._reports = reports

    @cached_property
    def _context(self) -> StreamContext:
        store = open_store(self._settings.repository)
        return StreamContext(
            settings=self._settings,
            ledger=Ledger.open(self._settings),
            store=store,
            keys=load_worker_keys(store, self._settings.repository),
            owner=f"{self._node}/{os.getpid()}",
            sessions=self._sessions(),
            deadlines=Deadlines().scaled(self._settings.fleet.time_scale),
            reports=self._reports(),
        )

    def _sessions(self) -> Sessions:
        sessions = Sessions(self._settings)

        def log_out(**_: object) -> None:
            sessions.close()

        # Celery ends its processes without Python's own clean-up at exit
        signals.worker_process_shutdown.connect(log_out, weak=False)
        return sessions

    def run(self, message: object) -> None:
        with bind(task=self.request.id):
            try:
                grant = Grant.from_message(message)
            except NotAMessage as error:
                log.warning("%s", error)
                return
            try:
                run_stream(self._context, grant)
            except CbtfleetError as error:  # Redis is away, say: the ledger takes the slot back by itself
                log.warning("a stream ended: %s", error)


def register_stream_task(
    app: Celery, settings: Settings, node: str, reports: Callable[[], Reports] = NoReports
) -> None:
    app.register_task(StreamTask(settings, node, reports))
