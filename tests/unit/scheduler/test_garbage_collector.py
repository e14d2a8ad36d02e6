"""When the garbage collector looks at a pool; what it finds there is in test_orphans."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from scheduler.pool_objects.garbage_collector import GarbageCollector
from scheduler.runs.facts import create_run
from tests.run_records import run_facts
from tests.unit.scheduler.desk import make_desk

POOL = {"url": "https://127.0.0.1:1", "username": "root", "password": "x"}


def test_a_pool_that_does_not_answer_is_a_line_and_keeps_no_other_from_being_looked_at(
    tmp_path: Path, redis_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    with make_desk(tmp_path, redis_url, pools={"lab": POOL, "dmz": POOL}) as desk:
        garbage_collector = GarbageCollector(desk.context)
        garbage_collector.round()
        assert garbage_collector.failures == 2
        garbage_collector.round()
        assert garbage_collector.failures == 2, "neither is due yet"
        create_run(desk.context.ledger, "run", run_facts("lab"))
        garbage_collector.round()
        assert garbage_collector.failures == 3, "a run on one of them has begun"
        desk.context.sessions.close()
    assert [line.partition(" fails: ")[0] for line in caplog.messages if " fails: " in line] == [
        "looking for orphans on pool lab",
        "looking for orphans on pool dmz",
    ]
