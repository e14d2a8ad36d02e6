"""A real scheduler with a loop that dies: `python -m tests.unit.scheduler.dying_scheduler CONFIG LOOP ERROR`.

LOOP is a class, ERROR what its first round raises; RuntimeError is what its thread's start raises instead.
"""

from __future__ import annotations

import builtins
import sys
import threading
from typing import NoReturn

from scheduler import cli
from scheduler.background_loop import BackgroundLoop
from scheduler.hosts.reconciler import Reconciler
from scheduler.pool_objects.garbage_collector import GarbageCollector
from scheduler.pump import Pump
from scheduler.runs.resuming import Resumer
from scheduler.runs.triggers import Triggers

LOOPS: dict[str, type[BackgroundLoop]] = {
    each.__name__: each for each in (Pump, Reconciler, Resumer, Triggers, GarbageCollector)
}


def main(config: str, loop: str, error: str) -> int:
    def dies(_: object) -> NoReturn:
        raise getattr(builtins, error)("no further round is better")

    start = threading.Thread.start

    def cannot_start(thread: threading.Thread) -> None:
        if thread.name == loop.lower():
            raise RuntimeError("can't start new thread")
        start(thread)

    if error == "RuntimeError":
        threading.Thread.start = cannot_start  # type: ignore[method-assign]
    else:
        LOOPS[loop].round = dies  # type: ignore[method-assign]
    return cli.run(["--config", config, "scheduler"])


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
