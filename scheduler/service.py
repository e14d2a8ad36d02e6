"""`cbtfleet scheduler`: the control steps' Celery worker, and beside it the background loops: the pump, which
hands out what is due, the reconciler, the search for runs that Redis has forgotten and for orphans, and the
policies' triggers.

Any number of schedulers may run: every decision is made by a script in the ledger, so two pumps only share
the work.
"""

from __future__ import annotations

import logging
import os
import socket
from contextlib import ExitStack
from datetime import UTC, datetime

from scheduler.background_loop import stop_all
from scheduler.context import ControlContext
from scheduler.hooks import check_hooks
from scheduler.hosts.reconciler import Reconciler
from scheduler.metrics import SchedulerMetrics
from scheduler.notifications import parse_notifications
from scheduler.policies.policy import parse_policies
from scheduler.pool_objects.garbage_collector import GarbageCollector
from scheduler.pump import Pump
from scheduler.runs.resuming import Resumer
from scheduler.runs.triggers import Triggers
from scheduler.steps import register_step_task
from workers.broker import celery_app, run_worker
from workers.fleet import Ledger
from workers.messages import STEP_QUEUE
from workers.metrics_server import serve_metrics
from workers.redis_address import RedisAddress
from workers.repository import Repository, load_metadata_keys, open_store
from workers.settings import MetricsSettings, Settings

log = logging.getLogger(__name__)

STEP_THREADS = 8
"""Control steps at a time: they wait for the pool and the store, they don't compute."""


def run_scheduler(settings: Settings) -> None:
    """Runs until SIGTERM or SIGINT; the steps in hand are finished first.

    Raises CbtfleetError when the configuration, the keys, the store or Redis are not usable. When a
    background loop dies the process ends at once (`scheduler.background_loop.DIED`).
    """
    with ExitStack() as at_the_end:
        _run(settings, at_the_end)


def _run(settings: Settings, at_the_end: ExitStack) -> None:
    """What is opened here is closed by `at_the_end`, the last one first, whatever becomes of the others."""
    began = datetime.now(UTC)
    policies = parse_policies(settings)
    check_hooks(policies)
    parse_notifications(settings)
    store = open_store(settings.repository)
    at_the_end.callback(store.close)
    keys = load_metadata_keys(store, settings.repository)
    ledger = Ledger.open(settings)
    at_the_end.callback(ledger.close)
    context = ControlContext(
        settings=settings,
        ledger=ledger,
        repository=Repository.open(store, keys),
        owner=f"{socket.gethostname()}:{os.getpid()}",
    )
    at_the_end.callback(context.sessions.close)
    app = celery_app(RedisAddress.of(settings))
    metrics = SchedulerMetrics(ledger)
    register_step_task(app, context, metrics.step_done)
    loops = (
        Pump(ledger, app, metrics.pump_round_done),
        Reconciler(ledger, settings, context.repository.repository_id),
        Resumer(ledger, context.repository),
        Triggers(context, policies, began),
        GarbageCollector(context),
    )
    metrics.show_loops(loops)
    served = serve_metrics(
        metrics.registry,
        settings.metrics.host,
        settings.metrics.scheduler_port,
        usual_port=MetricsSettings().scheduler_port,
    )
    if served is not None:
        at_the_end.callback(served.close)
    at_the_end.callback(stop_all, loops)

    def ready(**_: object) -> None:
        for loop in loops:
            loop.start()
        log.info("scheduler is ready")

    run_worker(app, "scheduler", ready, pool="threads", concurrency=STEP_THREADS, queue=STEP_QUEUE)
