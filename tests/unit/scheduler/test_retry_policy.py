"""A policy's `retry` reaches the ledger with every disk, at first and when the run is resumed."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import redis

from infra.simulator import DiskSpec, PoolSpec, Timing, VmSpec
from scheduler.policies.policy import Retry
from scheduler.policies.requests import request_from_policy
from scheduler.runs.resuming import resume_run
from scheduler.runs.submit import submit_run
from tests.unit.scheduler.conftest import Site
from workers.fleet import DiskWork

SPEC = PoolSpec(
    hosts=1,
    vms=(VmSpec("db", (DiskSpec(1 << 20, "root"),)),),
    timing=Timing(login_failure_delay=0.1, data_destroy_wait=0.2, slot_release_delay=0.05),
)


def test_retry_of_a_policy(
    make_site: Callable[[PoolSpec], Site], redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = make_site(SPEC)
    tree = {"pool": "lab", "include": {"names": ["*"]}, "retry": {"attempts": 2, "give_up_after": 60}}
    settings = site.settings.model_copy(update={"policies": {"nightly": tree}})
    request = request_from_policy(settings, "nightly")
    assert request.retry == Retry(attempts=2, give_up_after=60.0)
    given: list[tuple[int, float]] = []
    start_vm = site.ledger.start_vm

    def keep(run: str, vm: str, works: Sequence[DiskWork]) -> bool:
        given.extend((work.attempts, work.give_up_after) for work in works)
        return start_vm(run, vm, works)

    monkeypatch.setattr(site.ledger, "start_vm", keep)
    run = submit_run(site.ledger, request)
    site.work(run, stop=lambda: bool(given))
    redis_client.flushall()
    assert site.ledger.found()
    assert resume_run(site.ledger, site.repository, run)
    result = site.work(run)
    assert result is not None
    assert result.status == "succeeded"
    assert given == [(2, 60.0), (2, 60.0)]
