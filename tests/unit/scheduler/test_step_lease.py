"""A step is this scheduler's as long as its lease is renewed."""

from __future__ import annotations

import redis

from scheduler.steps import _StepLease
from tests.until import until
from workers.fleet import Ledger, Step, Timing

TIMING = Timing(renew_every=0.05, step_lease=1.0)


def test_a_step_whose_lease_was_taken_over_is_not_recorded_as_failed(
    redis_url: str, redis_client: redis.Redis
) -> None:
    ledger = Ledger.from_url(redis_url, TIMING)
    ledger.create_run("run", b"")
    [step] = ledger.due_steps()
    fence = ledger.claim_step(step, "one")
    assert step == Step("run", "plan-run", "")
    assert fence is not None
    with _StepLease(ledger, step, fence) as lease:
        assert not lease.lost
        assert ledger.finish_step(step, fence)  # as another scheduler's claim of it would end this one
        until(lambda: lease.lost)
    ledger.close()
