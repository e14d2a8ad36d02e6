"""`cbtfleet scheduler`: the control steps' Celery worker, and beside it the pump, which hands out what is
due, the reconciler, the search for runs that Redis has forgotten and for orphans, and the policies' nights.

Any number of schedulers may run: every decision is made by a script in the ledger, so two pumps only share
the work.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime

from celery import Celery, signals
from kombu.exceptions import OperationalError

from scheduler.context import ControlContext
from scheduler.hooks import check_hooks
from scheduler.hosts.reconciler import Reconciler
from scheduler.metrics import SchedulerMetrics
from scheduler.notifications import parse_notifications
from scheduler.policies.policy import parse_policies
from scheduler.pool_objects.garbage_collector import GarbageCollector
from scheduler.runs.resuming import Resumer
from scheduler.runs.triggers import Triggers
from scheduler.steps import register_step_task
from workers.broker import celery_app
from workers.errors import CbtfleetError
from workers.fleet import Ledger
from workers.messages import STEP_QUEUE, STEP_TASK, STREAM_QUEUE, STREAM_TASK
from workers.metrics_server import serve_metrics
from workers.repository import Repository, load_metadata_keys, open_store
from workers.settings import MetricsSettings, Settings

log = logging.getLogger(__name__)

STEP_THREADS = 8
"""Control steps at a time: they wait for the pool and the store, they don't compute."""


class Pump:
    """Sweeps expired leases, turns free slots into grants, and publishes grants and due steps.

    Nothing ends it but `stop`: what it could not publish the ledger makes due again.
    """

    def __init__(
        self,
        ledger: Ledger,
        app: Celery,
        turned: Callable[[float, int, int], None] = lambda seconds, steps, grants: None,
    ) -> None:
        """`turned` hears of each turn: its seconds, steps and grants published."""
        self._ledger = ledger
        self._app = app
        self._turned = turned
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._pump, name="pump", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._end.set()
        if self._thread.is_alive():
            self._thread.join()

    def _pump(self) -> None:
        while not self._end.is_set():
            try:
                self.turn()
                self._ledger.wait_for_work(1.0)
                continue
            except CbtfleetError as error:
                log.warning("%s; trying again", error)
            except OperationalError as error:
                log.warning("nothing can be published: %s; trying again", error)
            except Exception:
                log.exception("the pump met something unexpected; going on")
            self._end.wait(1.0)

    def turn(self) -> None:
        began = time.monotonic()
        self._ledger.sweep()
        steps = self._ledger.due_steps()
        for step in steps:
            self._app.send_task(STEP_TASK, args=[step.as_message()], queue=STEP_QUEUE, ignore_result=True)
        grants = self._ledger.admit()
        for grant in grants:
            self._app.send_task(
                STREAM_TASK, args=[grant.as_message()], queue=STREAM_QUEUE, ignore_result=True
            )
        self._turned(time.monotonic() - began, len(steps), len(grants))


def run_scheduler(settings: Settings) -> None:
    """Runs until SIGTERM or SIGINT; the steps in hand are finished first.

    Raises CbtfleetError when the configuration, the keys, the store or Redis are not usable.
    """
    began = datetime.now(UTC)
    policies = parse_policies(settings)
    check_hooks(policies)
    parse_notifications(settings)
    store = open_store(settings.repository)
    keys = load_metadata_keys(store, settings.repository)
    ledger = Ledger.open(settings)
    context = ControlContext(
        settings=settings,
        ledger=ledger,
        repository=Repository.open(store, keys),
        owner=f"{socket.gethostname()}:{os.getpid()}",
    )
    app = celery_app(settings.redis_url())
    metrics = SchedulerMetrics(ledger)
    register_step_task(app, context, metrics.step_done)
    pump = Pump(ledger, app, metrics.turned)
    reconciler = Reconciler(ledger, settings, context.repository.repository_id)
    resumer = Resumer(ledger, context.repository)
    triggers = Triggers(context, policies, began)
    garbage_collector = GarbageCollector(context)

    served = serve_metrics(
        metrics.registry,
        settings.metrics.host,
        settings.metrics.scheduler_port,
        usual_port=MetricsSettings().scheduler_port,
    )

    def ready(**_: object) -> None:
        pump.start()
        reconciler.start()
        resumer.start()
        triggers.start()
        garbage_collector.start()
        log.info("scheduler is ready")

    def keep_our_logging(**_: object) -> None:
        """Celery leaves logging alone when someone listens to this signal."""

    signals.setup_logging.connect(keep_our_logging, weak=False)
    signals.worker_ready.connect(ready, weak=False)
    try:
        app.worker_main(
            [
                "worker",
                "--pool=threads",
                f"--concurrency={STEP_THREADS}",
                f"--queues={STEP_QUEUE}",
                f"--hostname=scheduler-{os.getpid()}@{socket.gethostname()}",
                "--without-gossip",
                "--without-mingle",
                "--without-heartbeat",
            ]
        )
    finally:
        pump.stop()
        reconciler.stop()
        resumer.stop()
        triggers.stop()
        garbage_collector.stop()
        context.sessions.close()
        if served is not None:
            served.close()
        store.close()
