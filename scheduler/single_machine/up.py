"""`cbtfleet up`: the whole of it on one machine, in the foreground.

            up ---- redis-server   (only when no redis.url is configured)
             |----- scheduler
             '----- worker         (a Celery node with its pool of processes)

A child that dies is started again; one that ends with 2 (usage or configuration) or 4 (this machine computes
wrongly) never will succeed, so everything stops. SIGTERM or SIGINT stops worker, scheduler and Redis in that
order: the worker's last commits still find the ledger.
"""

from __future__ import annotations

import logging
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from scheduler.single_machine import children
from scheduler.single_machine.embedded_redis import EmbeddedRedis
from workers.errors import ConfigurationError, MachineUnfit
from workers.fleet import Ledger
from workers.interrupts import drop_interrupt, interrupts_are_ignored
from workers.settings import Settings

log = logging.getLogger(__name__)

SHORTEST_PAUSE = 1.0
LONGEST_PAUSE = 30.0
"""Seconds between a child's death and its next start: doubled at every death, as a store or a pool that is
down for an hour must not fill the log."""

HEALTHY_AFTER = 60.0
"""Seconds alive after which a child's next death counts as the first again."""

FINAL = {
    ConfigurationError.exit_code: "cannot work with this configuration",
    MachineUnfit.exit_code: "found that this machine must not write backups",
}
"""Exit codes of a child that is not started again, and what they mean."""
STDERR = 2
"""Where children's stdout goes, too: ours may be kept for one JSON object."""


@dataclass
class Service:
    """One child process and how to keep it running."""

    name: str
    command: Sequence[str]
    patience: float
    """Seconds it may take to stop after SIGTERM."""
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    pause: float = SHORTEST_PAUSE
    start_at: float = 0.0

    def tend(self, now: float) -> int | None:
        """Starts it when it is due. Returns the exit code when it has just been found dead."""
        if self.process is None:
            if now >= self.start_at:
                self.process, self.started = children.start(self.command, stdout=STDERR), now
            return None
        code = self.process.poll()
        if code is None:
            return None
        children.kill_group(self.process)  # pool processes that outlived a killed node
        self.pause = SHORTEST_PAUSE if now - self.started > HEALTHY_AFTER else self.pause
        self.process, self.start_at = None, now + self.pause
        return code

    def back_off(self) -> None:
        self.pause = min(self.pause * 2, LONGEST_PAUSE)


def scheduler_command(settings_file: Path) -> list[str]:
    return [sys.executable, "-m", "scheduler.cli", "--config", str(settings_file), "scheduler"]


def worker_command(settings_file: Path, concurrency: int | None) -> list[str]:
    command = [sys.executable, "-m", "workers.node.main", "--config", str(settings_file)]
    return command if concurrency is None else [*command, "--concurrency", str(concurrency)]


def run_up(
    settings: Settings,
    settings_file: Path,
    concurrency: int | None = None,
    on_ready: Callable[[dict[str, object]], None] | None = None,
) -> int:
    """Runs until SIGTERM or SIGINT (then returns 0), or until a child ends with one of FINAL (returns that).
    An ignored SIGINT stays so.

    `on_ready` is called once, with the process ids, when every child has been started. Raises
    EmbeddedRedisFailed when our own Redis cannot start.
    """
    services = [
        Service("scheduler", scheduler_command(settings_file), patience=20),
        Service("worker", worker_command(settings_file, concurrency), patience=60),
    ]
    with _signals() as signals:
        server = EmbeddedRedis.start(settings.state_dir) if settings.redis.url is None else None
        try:
            if server is not None:
                declare_new(server)
            return _supervise(services, server, settings, signals, on_ready)
        finally:
            for service in reversed(services):
                _stop(service, signals)
            if server is not None:
                server.stop()
            log.info("everything is stopped")


def declare_new(server: EmbeddedRedis) -> None:
    """Tells the ledger of a Redis that was just created that it has forgotten nothing, so that the first run
    need not wait for holders of connections that nobody ever was. No effect when it was used before."""
    with closing(Ledger.from_url(server.url)) as ledger:
        ledger.found()


def _supervise(
    services: Sequence[Service],
    server: EmbeddedRedis | None,
    settings: Settings,
    signals: _Signals,
    on_ready: Callable[[dict[str, object]], None] | None,
) -> int:
    while not signals.stop:
        signals.woken.clear()
        if server is not None and server.returncode is not None:
            log.warning("our own Redis ended with %s: starting it again", server.returncode)
            server.restart()
        now = time.monotonic()
        for service in services:
            code = service.tend(now)
            if code in FINAL:
                log.error("the %s %s (its line is above): stopping", service.name, FINAL[code])
                return code
            if code is not None:
                log.warning(
                    "the %s ended with %s: starting it again in %g s", service.name, code, service.pause
                )
                service.back_off()
        if on_ready is not None:
            on_ready(_process_ids(services, server))
            on_ready = None
        due = [service.start_at - now for service in services if service.process is None]
        signals.woken.wait(max(0.05, min([1.0, *due])))
    return 0


def _process_ids(services: Sequence[Service], server: EmbeddedRedis | None) -> dict[str, object]:
    found: dict[str, object] = {service.name: service.process.pid for service in services if service.process}
    return found | ({} if server is None else {"redis": server.pid, "redis_url": server.url})


def _stop(service: Service, signals: _Signals) -> None:
    """SIGTERM and patience; a second SIGTERM or SIGINT to us ends the patience."""
    process = service.process
    if process is None:
        return
    log.info("stopping the %s", service.name)
    if process.poll() is None:
        process.terminate()
    deadline = time.monotonic() + service.patience
    while process.poll() is None and time.monotonic() < deadline and signals.stop < 2:
        signals.woken.clear()
        signals.woken.wait(0.2)
    if process.poll() is None:
        log.warning("the %s did not stop in time: killed; what it was doing will be done again", service.name)
    children.kill_group(process)
    process.wait()


class _Signals:
    """How often we were asked to stop; `woken` is set by that and by a child's death."""

    def __init__(self) -> None:
        self.stop = 0
        self.woken = threading.Event()

    def on_stop(self, number: int, frame: FrameType | None) -> None:
        self.stop += 1
        self.woken.set()

    def on_child(self, number: int, frame: FrameType | None) -> None:
        self.woken.set()


@contextmanager
def _signals() -> Iterator[_Signals]:
    signals = _Signals()
    handlers = {
        signal.SIGTERM: signals.on_stop,
        signal.SIGINT: drop_interrupt if interrupts_are_ignored() else signals.on_stop,
        signal.SIGCHLD: signals.on_child,
    }
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield signals
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
