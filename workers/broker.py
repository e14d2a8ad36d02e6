"""Celery's settings, once, for everyone who publishes or consumes.

Each choice answers a failure mode of Celery on Redis: messages are acknowledged early and claimed in the
ledger, so a lost, late or doubled message costs time and nothing else; nothing is prefetched, so that no
busy process sits on a message that an idle one could take; there is no result backend to fill up.
"""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable
from typing import Any

from celery import Celery, signals
from kombu.entity import Queue
from kombu.exceptions import OperationalError

from workers.errors import CbtfleetError
from workers.interrupts import drop_interrupt, interrupts_are_ignored
from workers.messages import STEP_QUEUE, STREAM_QUEUE
from workers.queue_entries import ADDRESS, Transport
from workers.redis_address import RedisAddress


class ConsumerEnded(CbtfleetError):
    """Celery's worker ended and nobody had asked it to."""


def celery_app(address: RedisAddress) -> Celery:
    """A Celery application on this Redis. Opens no connection yet."""
    app = Celery("cbtfleet", broker=str(address), set_as_current=False)
    app.conf.update(
        broker_transport=Transport,
        task_serializer="json",
        accept_content=["json"],
        task_ignore_result=True,
        task_acks_late=False,
        worker_prefetch_multiplier=1,
        worker_disable_prefetch=True,
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
        worker_enable_remote_control=False,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_channel_error_retry=True,
        broker_pool_limit=4,
        broker_transport_options={
            ADDRESS: address,
            # Nothing is acknowledged late, so there is nothing to restore: kombu keeps no list of it in Redis
            # and reads none that somebody put there.
            "ack_emulation": False,
            "socket_keepalive": True,
            "socket_connect_timeout": 5,
            "health_check_interval": 15,
            "global_keyprefix": "cbtfleet:queue:",
        },
        task_queues=[Queue(STREAM_QUEUE), Queue(STEP_QUEUE)],  # type: ignore[no-untyped-call]
        task_default_queue=STEP_QUEUE,
        task_create_missing_queues=False,
    )
    return app


def run_worker(
    app: Celery, kind: str, ready: Callable[..., None], *, pool: str, concurrency: int, queue: str
) -> None:
    """Celery's worker in this process, until SIGTERM or SIGINT. Its logging is left as it is, and a SIGINT
    that is ignored stays so.

    `kind` begins its name at the broker, `pool` is Celery's ("prefork" or "threads"). `ready` is called, with
    the arguments of Celery's signal, when it waits for messages. Raises ConsumerEnded when it could not go
    on, or was told not to wait for what it had in hand.
    """
    interrupts_ignored = interrupts_are_ignored()
    begun: list[Any] = []

    def on_init(sender: Any, **_: object) -> None:
        begun.append(sender)  # the only way to its exit code: `worker_main` returns none

    def on_ready(**facts: object) -> None:
        if interrupts_ignored:
            signal.signal(signal.SIGINT, drop_interrupt)  # Celery has taken it
        ready(**facts)

    signals.worker_init.connect(on_init, weak=False)
    signals.worker_ready.connect(on_ready, weak=False)
    signals.setup_logging.connect(_keep_our_logging, weak=False)
    app.worker_main(
        [
            "worker",
            f"--pool={pool}",
            f"--concurrency={concurrency}",
            f"--queues={queue}",
            f"--hostname={kind}-{os.getpid()}@{socket.gethostname()}",
            "--without-gossip",
            "--without-mingle",
            "--without-heartbeat",
        ]
    )
    if [worker.exitcode for worker in begun] != [0]:
        raise ConsumerEnded(f"the {kind} takes no more messages and ends: the lines above say why")


def _keep_our_logging(**_: object) -> None:
    """Celery leaves logging alone when someone listens to this signal."""


def queued(app: Celery, queue: str) -> int:
    """How many messages wait in a queue. Raises OperationalError, as publishing does."""
    with app.connection_or_acquire() as connection:
        try:
            return int(connection.default_channel.client.llen(queue))
        except connection.recoverable_connection_errors as error:
            raise OperationalError(str(error)) from error
