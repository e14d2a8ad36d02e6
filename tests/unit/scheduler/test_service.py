"""The pump outlives what happens to Redis: a scheduler without one would look alive and do nothing."""

from __future__ import annotations

import logging
import time

import pytest
import redis

from scheduler.service import Pump
from scheduler.steps import _StepLease
from workers.broker import celery_app
from workers.fleet import Ledger, Step, Timing

TIMING = Timing(renew_every=0.05, step_lease=1.0)


def wait_for_warnings(caplog: pytest.LogCaptureFixture, text: str) -> None:
    """Two of them: so it went on after the first."""
    until = time.monotonic() + 20
    while caplog.text.count(text) < 2:
        assert time.monotonic() < until, caplog.text
        time.sleep(0.01)


def test_the_pump_outlives_a_broker_that_is_away(redis_url: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    ledger = Ledger.from_url(redis_url)
    ledger.create_run("run", {})
    pump = Pump(ledger, celery_app("redis://127.0.0.1:1/0"))
    pump.start()
    wait_for_warnings(caplog, "nothing can be published")
    pump.stop()
    ledger.close()


@pytest.mark.parametrize("unexpected", [False, True])
def test_the_pump_outlives_a_ledger_that_refuses(
    redis_url: str,
    redis_client: redis.Redis,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    unexpected: bool,
) -> None:
    caplog.set_level(logging.WARNING)
    ledger = Ledger.from_url(redis_url)
    pump = Pump(ledger, celery_app(redis_url))
    if unexpected:
        monkeypatch.setattr(pump, "turn", lambda: {}["a mistake of ours"])
    redis_client.config_set("min-replicas-to-write", 1)
    try:
        pump.start()
        wait_for_warnings(caplog, "met something unexpected" if unexpected else "takes no writes")
    finally:
        redis_client.config_set("min-replicas-to-write", 0)
        pump.stop()
        ledger.close()


def test_a_step_whose_lease_was_taken_over_is_not_recorded_as_failed(
    redis_url: str, redis_client: redis.Redis
) -> None:
    ledger = Ledger.from_url(redis_url, TIMING)
    ledger.create_run("run", {})
    [step] = ledger.due_steps()
    fence = ledger.claim_step(step, "one")
    assert step == Step("run", "plan-run", "")
    assert fence is not None
    with _StepLease(ledger, step, fence) as lease:
        assert not lease.lost
        assert ledger.finish_step(step, fence)  # as another scheduler's claim of it would end this one
        until = time.monotonic() + 10
        while not lease.lost:
            assert time.monotonic() < until
            time.sleep(0.01)
    ledger.close()
