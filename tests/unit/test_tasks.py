"""A Celery task of ours ends with one line when Redis is away; the ledger has the work done again."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from scheduler.context import ControlContext
from scheduler.steps import StepTask
from workers.broker import celery_app
from workers.fleet import Ledger, LedgerUnreachable
from workers.messages import Grant, Step
from workers.node.tasks import StreamTask
from workers.redis_address import RedisAddress
from workers.settings import Settings


def test_a_grant_that_comes_while_redis_is_away_is_one_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = Settings.model_validate(
        {"repository": {"url": f"file://{tmp_path}"}, "redis": {"url": "redis://127.0.0.1:1/0"}}
    )
    task = celery_app(RedisAddress.of(settings)).register_task(StreamTask(settings, "node"))
    task.run(Grant("lab", "h1", 0, 1, "run", "disk").as_message())
    [record] = caplog.records
    assert record.levelno == logging.WARNING
    assert "127.0.0.1:1 does not answer" in record.getMessage()
    assert record.exc_info is None


def test_a_step_that_comes_while_redis_is_away_is_one_line(
    redis_url: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = Ledger.from_url(redis_url)

    def away(*_: object) -> None:
        raise LedgerUnreachable("Redis does not answer")

    monkeypatch.setattr(ledger, "claim_step", away)
    context = ControlContext(None, ledger, None, "test")  # type: ignore[arg-type]
    StepTask(context, lambda step, seconds: None).run(Step("run", "plan-run", "").as_message())
    ledger.close()
    [record] = caplog.records
    assert (record.levelno, record.exc_info) == (logging.WARNING, None)
    assert "Redis does not answer" in record.getMessage()
