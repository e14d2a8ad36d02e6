"""What is known of runs and of their results, for tests that need some of it."""

from __future__ import annotations

from typing import Any

from scheduler.policies.requests import RunRequest
from scheduler.runs.values import ResultRow, RunFacts, RunResult

RUN = "20261122T010000Z-5be41f0a"


def run_facts(pool: str = "lab", **changes: Any) -> RunFacts:
    return RunFacts(RunRequest(pool, ("web",)), **{"started": "2026-11-22T01:00:00Z", **changes})


def result_row(**changes: Any) -> ResultRow:
    """A disk that was backed up: of VM "web", in two seconds."""
    values: dict[str, Any] = {
        "vm": "web",
        "vm_uuid": "u-web",
        "vdi": "u-root",
        "name": "root",
        "mode": "incremental",
        "changed_bytes": 3 << 20,
        "read_bytes": 3 << 20,
        "stored_bytes": 1 << 20,
        "seconds": 2.0,
        "bytes_per_second": 1572864,
        "point": "0123456789ab",
    }
    return ResultRow(**values | changes)


def run_result(*rows: ResultRow, **changes: Any) -> RunResult:
    """Of a run of policy "nightly" that succeeded in five minutes."""
    values: dict[str, Any] = {
        "run": RUN,
        "status": "succeeded",
        "policy": "nightly",
        "pool": "lab",
        "slot": None,
        "started": "2026-11-22T01:00:00Z",
        "ended": "2026-11-22T01:05:00Z",
        "disks": rows,
    }
    return RunResult(**values | changes)
