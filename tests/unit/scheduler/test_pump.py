"""The pump outlives what happens to Redis: a scheduler without one would look alive and do nothing."""

from __future__ import annotations

import logging

import pytest
import redis

from scheduler.pump import MOST_QUEUED, Pump
from tests.until import until
from workers.broker import celery_app, queued
from workers.fleet import Ledger, Timing
from workers.messages import STEP_QUEUE
from workers.redis_address import RedisAddress


def test_the_pump_outlives_a_broker_that_is_away(redis_url: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    ledger = Ledger.from_url(redis_url)
    ledger.create_run("run", b"")
    pump = Pump(ledger, celery_app(RedisAddress("redis://127.0.0.1:1/0")))
    pump.start()
    until(lambda: pump.failures >= 2)
    pump.stop()
    ledger.close()
    [line] = set(caplog.messages)  # rounds in which nothing was due worked
    assert line.startswith("handing out work fails: nothing can be published: ")


@pytest.mark.parametrize("unexpected", [False, True])
def test_the_pump_outlives_a_ledger_that_refuses(
    redis_url: str,
    redis_client: redis.Redis,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    unexpected: bool,
) -> None:
    caplog.set_level(logging.INFO)
    ledger = Ledger.from_url(redis_url)
    pump = Pump(ledger, celery_app(RedisAddress(redis_url)))
    if unexpected:
        monkeypatch.setattr(ledger, "sweep", lambda: {}["a mistake of ours"])
    else:
        redis_client.config_set("min-replicas-to-write", 1)
    try:
        pump.start()
        until(lambda: pump.failures >= 2)
        assert pump.last_success == 0
    finally:
        redis_client.config_set("min-replicas-to-write", 0)
        monkeypatch.undo()
    until(lambda: pump.last_success > 0)
    pump.stop()
    ledger.close()
    [begins, is_over] = [record for record in caplog.records if record.levelno < logging.CRITICAL]
    what = "handing out work met something unexpected" if unexpected else "handing out work fails: "
    assert begins.getMessage().startswith(what)
    assert ("takes no writes" in begins.getMessage()) != unexpected
    assert (begins.exc_info is not None) == unexpected
    assert is_over.getMessage().startswith("handing out work works again, after ")


def test_steps_that_nobody_claims_do_not_fill_the_queue(redis_url: str, redis_client: redis.Redis) -> None:
    """All threads wait for a pool, and thousands of steps are due."""
    ledger = Ledger.from_url(redis_url, Timing(step_republish=0.001))
    ledger.create_run("run", b"")
    ledger.add_vms("run", {f"vm{number}": b"" for number in range(MOST_QUEUED * 2)})
    app = celery_app(RedisAddress(redis_url))
    pump = Pump(ledger, app)
    for _ in range(5):
        pump.round()
        assert queued(app, STEP_QUEUE) == MOST_QUEUED
    redis_client.lpop(f"cbtfleet:queue:{STEP_QUEUE}", 10)
    pump.round()
    assert queued(app, STEP_QUEUE) == MOST_QUEUED
    app.close()
    ledger.close()
