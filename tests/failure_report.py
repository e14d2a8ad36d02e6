"""What a failed test about a run says: the run in short, then what its processes complained of.

pytest cuts a message that is not a string to 240 characters, and a result has a row for each disk: so the
disks that failed come first, in words.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

from scheduler.runs.values import RunResult

COMPLAINTS = ("warning", "error", "critical")
LAST_WORDS = ("cbtfleet: ", "Traceback", "Fatal Python error")
"""Celery greets with twenty lines of its own."""

LAST_LINES = 30


def run_in_short(result: RunResult | Mapping[str, Any]) -> str:
    """A line for the run, each warning, and each disk that failed or was read in full; the others counted.

    `result`: as it is kept, or what `backup --wait --json` prints.
    """
    result = asdict(result) if isinstance(result, RunResult) else result
    rows = result["disks"]
    failed = [row for row in rows if row["error"]]
    lines = [
        f"run {result.get('run')} {result['status']}: {len(failed)} of {len(rows)} rows failed",
        *(f"  the run: {text}" for text in (result.get("error"), *result.get("warnings", ())) if text),
        *(f"  {_disk(row)} failed: {row['error']}" for row in failed),
        *(f"  {_disk(row)} read in full: {row['reason']}" for row in rows if row["mode"] == "full"),
    ]
    return "\n".join(lines)


def complaints(log: str) -> list[str]:
    """The last lines at level warning or worse, and what a process says as it breaks, which is no JSON."""
    return list(_complaints(log))[-LAST_LINES:]


def _complaints(log: str) -> Iterator[str]:
    for line in log.splitlines():
        try:
            entry = json.loads(line)
            time, level, message = entry["time"], entry["level"], entry["message"]
        except (ValueError, TypeError, KeyError):
            if line.startswith(LAST_WORDS):
                yield line
            continue
        if level in COMPLAINTS:
            yield "\n".join([f"{time} {level}: {message}", *filter(None, [entry.get("traceback")])])


def _disk(row: Mapping[str, Any]) -> str:
    name = row.get("name") or row["vdi"]
    return f'VM "{row["vm"]}", disk {name} ({row["vdi"]}, {row["mode"]})'
