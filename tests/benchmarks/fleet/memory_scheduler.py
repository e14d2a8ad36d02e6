"""A scheduler whose pool is in memory: `python -m tests.benchmarks.fleet.memory_scheduler CONFIG VMS DISKS`.

Everything is the scheduler's own - pump, Celery, steps, leases, log lines, the repository - but its XenAPI
sessions.
"""

from __future__ import annotations

import sys
from pathlib import Path

from scheduler.cli import run
from scheduler.context import ControlContext
from tests.benchmarks.fleet.memory_pool import MemoryPool, MemorySessions, Size
from workers.repository import Repository, load_metadata_keys, open_store
from workers.settings import load_settings

SNAPSHOT = 0.02
"""Seconds that a snapshot takes, so that VMs wait for their permits."""


def main(config: str, vms: str, disks: str) -> int:
    settings = load_settings(Path(config))
    store = open_store(settings.repository)
    repository = Repository.open(store, load_metadata_keys(store, settings.repository))
    pool = MemoryPool(Size(int(vms), int(disks), snapshot=SNAPSHOT), repository.repository_id)
    sessions = MemorySessions(pool, settings.pool("lab"))
    if not hasattr(ControlContext, "sessions"):
        raise SystemExit("ControlContext has no sessions any more: this benchmark must follow it")
    ControlContext.sessions = property(lambda _: sessions)  # type: ignore[assignment, method-assign]
    return run(["--config", config, "scheduler"])


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
