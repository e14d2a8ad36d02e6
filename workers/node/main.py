"""A worker node: one Celery parent process and its stream processes; `python -m workers.node.main`.

The parent only supervises: it tells the ledger how many streams it can run, holds the supervisor of its
stream processes, and when it is asked to stop it tells the ledger and them so first; then every stream ends
after the batch in hand. When it dies, the kernel kills its stream processes (Celery asks for that).
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

from celery import signals

from workers.broker import celery_app, run_worker
from workers.errors import CbtfleetError, ConfigurationError
from workers.fleet import Ledger, LedgerError
from workers.logs import start_logging
from workers.messages import STREAM_QUEUE
from workers.metrics_server import serve_metrics
from workers.node.fitness import try_sealing
from workers.node.metrics import WorkerMetrics
from workers.node.supervisor import Supervisor
from workers.node.tasks import node_name, register_stream_task, report_to
from workers.redis_address import RedisAddress
from workers.repository import credentials_mark, load_worker_keys, open_store
from workers.service_start import start_without_passphrase
from workers.settings import MetricsSettings, Settings, load_settings

log = logging.getLogger(__name__)

REPLACE_EVERY = 1.0
"""Celery looks for dead processes every 5 s; until then it waits for them and replaces none."""


class Heartbeat:
    """Tells the ledger every few seconds that this node lives and how many streams it can run."""

    def __init__(
        self, ledger: Ledger, node: str, processes: int, spare: int = 0, credentials: str = ""
    ) -> None:
        """`credentials` marks those for the store."""
        self._ledger = ledger
        self._node = node
        self._processes = processes
        self._spare = spare
        self._credentials = credentials
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def _beat(self) -> None:
        is_new = True
        while True:
            try:
                if is_new:  # a container keeps name and process id: one killed while it drained was us
                    self._ledger.node_gone(self._node)
                    is_new = False
                self._ledger.node_alive(self._node, self._processes, self._spare, self._credentials)
            except LedgerError as error:
                log.warning("%s", error)
            if self._end.wait(self._ledger.timing.renew_every):
                return

    def drain(self) -> None:
        """No new grants for this node, and its streams end after the batch in hand."""
        self._end.set()
        try:
            self._ledger.node_drain(self._node)
        except LedgerError as error:
            log.warning("streams could not be told to stop early: %s", error)

    def stop(self) -> None:
        self._end.set()
        if self._thread.is_alive():
            self._thread.join()
        try:
            self._ledger.node_gone(self._node)
        except LedgerError as error:
            log.warning("%s", error)


def without_secrets_of_others(settings: Settings) -> Settings:
    """The settings as a worker may have them: the keys that read backups are not even named.

    One configuration file may serve a whole machine. What the worker has no use for, it forgets, its
    children never see, and it says so.
    """
    repository = settings.repository
    if repository.private_key_file is not None and repository.private_key_file.exists():
        log.warning(
            "this worker's configuration names a private key file that exists here; the worker does not"
            " open it, but a machine that only runs workers should not have it"
        )
    kept = repository.model_copy(
        update={"private_key_file": None, "metadata_key_file": None, "passphrase_file": None}
    )
    return settings.model_copy(update={"repository": kept})


def check_start(settings: Settings) -> str:
    """Finds out now, in one line, what would otherwise fail every stream. Raises CbtfleetError.

    Returns the mark of this node's credentials for the store.
    """
    store = open_store(settings.repository)
    try:
        keys = load_worker_keys(store, settings.repository)
        credentials = credentials_mark(store)
    finally:
        store.close()
    try_sealing(keys)
    for name, pool in settings.pools.items():
        try:
            pool.read_password()
        except ConfigurationError as error:
            raise ConfigurationError(f"pools.{name}.{error}") from error
    return credentials


def spare_processes(concurrency: int) -> int:
    """How many more processes a node runs, for while some of its streams wait long for slow hosts."""
    return max(1, concurrency // 8)


def stop_this_node() -> None:
    """In the way in which it is stopped from outside, which is tried every day."""
    os.kill(os.getpid(), signal.SIGTERM)


def run_node(settings: Settings, concurrency: int) -> None:
    """Runs until SIGTERM or SIGINT; then the streams finish their batches and the processes end.

    Raises CbtfleetError when it cannot start, MachineUnfit or NodeUnfit when this machine must not work.
    """
    credentials = check_start(settings)
    ledger = Ledger.open(settings)
    node = node_name()
    spare = spare_processes(concurrency)
    metrics = WorkerMetrics(concurrency + spare)
    heartbeat = Heartbeat(ledger, node, concurrency, spare, credentials)
    supervisor = Supervisor(ledger, metrics, stop_this_node)
    supervisor.start()
    served = serve_metrics(
        metrics.registry,
        settings.metrics.host,
        settings.metrics.worker_port,
        usual_port=MetricsSettings().worker_port,
    )
    app = celery_app(RedisAddress.of(settings))
    register_stream_task(app, settings, node, lambda: report_to(supervisor.address))

    def ready(sender: Any, **_: object) -> None:
        heartbeat.start()
        sender.hub.call_repeatedly(REPLACE_EVERY, sender.pool.maintain_pool)
        log.info("worker node %s is ready for %d streams", node, concurrency)

    def shutting_down(**_: object) -> None:
        supervisor.drain()
        heartbeat.drain()

    def in_child(**_: object) -> None:
        supervisor.close_inherited()
        if served is not None:
            served.close_inherited()

    # Celery reports a dead process later, with a traceback; the supervisor logs one line at once.
    logging.getLogger("celery.worker.request").addFilter(
        lambda record: "WorkerLostError" not in record.getMessage()
    )
    # strong references: Celery's signals keep only weak ones by default
    signals.worker_shutting_down.connect(shutting_down, weak=False)
    signals.worker_process_init.connect(in_child, weak=False)
    try:
        run_worker(app, "worker", ready, pool="prefork", concurrency=concurrency + spare, queue=STREAM_QUEUE)
    finally:
        supervisor.stop()
        heartbeat.stop()
        if served is not None:
            served.close()
    if supervisor.unfit is not None:
        raise supervisor.unfit


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="cbtfleet worker")
    parser.add_argument("--config", type=Path)
    parser.add_argument("--concurrency", type=int)
    given = parser.parse_args(arguments)
    start_without_passphrase()
    start_logging()
    try:
        settings = without_secrets_of_others(load_settings(given.config))
        concurrency = given.concurrency or settings.worker.concurrency or os.cpu_count() or 1
        run_node(settings, concurrency)
    except CbtfleetError as error:
        print(f"cbtfleet: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
