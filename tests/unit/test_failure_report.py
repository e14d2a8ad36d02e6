"""What a failed test about a run shows first."""

from __future__ import annotations

import json

from tests.failure_report import LAST_LINES, complaints, run_in_short


def test_the_disks_that_failed_come_with_their_words_and_the_others_are_counted() -> None:
    good = {"vm": "db", "vdi": "1", "mode": "incremental", "error": None, "reason": None, "point": "p"}
    bad = {**good, "vdi": "2", "name": "data", "error": "its host is away"}
    full = {**good, "vdi": "3", "mode": "full", "reason": "first backup"}
    result = {"run": "r", "status": "partial", "warnings": ["slow"], "disks": [*[good] * 40, bad, full]}
    assert run_in_short(result).splitlines() == [
        "run r partial: 1 of 42 rows failed",
        "  the run: slow",
        '  VM "db", disk data (2, incremental) failed: its host is away',
        '  VM "db", disk 3 (3, full) read in full: first backup',
    ]


def test_complaints_are_warnings_errors_and_what_is_no_log_line() -> None:
    entry = {"time": "2026-11-01T01:00:00.000", "message": "m"}
    lines = [json.dumps({**entry, "level": level}) for level in ("info", "warning", "error")]
    broken = json.dumps({**entry, "level": "error", "traceback": "Traceback: oops"})
    assert complaints("\n".join([*lines, "", "- ** --- [queues]", "cbtfleet: no folder", broken])) == [
        "2026-11-01T01:00:00.000 warning: m",
        "2026-11-01T01:00:00.000 error: m",
        "cbtfleet: no folder",
        "2026-11-01T01:00:00.000 error: m\nTraceback: oops",
    ]
    assert len(complaints("Traceback\n" * 100)) == LAST_LINES
