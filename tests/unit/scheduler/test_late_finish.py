"""Redis loses everything while a VM is finished: the step from before ends after the run is back."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import redis

from infra.simulator import DiskSpec, PoolSpec, Timing, VmSpec
from scheduler.runs.resuming import resume_run
from tests.unit.scheduler.conftest import Site
from workers.repository import Point, Repository

SPEC = PoolSpec(
    hosts=1,
    vms=(VmSpec("web", (DiskSpec(2 << 20, "root"),)),),
    timing=Timing(login_failure_delay=0.1, data_destroy_wait=0.2, slot_release_delay=0.05),
)


def test_what_a_late_finish_says_of_a_vm_stays(
    make_site: Callable[[PoolSpec], Site], redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = make_site(SPEC)
    run = site.submit()
    site.work(run, until=lambda step: step == "end-run")
    [vm] = [vm["uuid"] for vm in site.pool.vms()]
    finished = site.ledger.vm_facts(run, vm)
    redis_client.flushall()
    assert site.ledger.found()
    assert resume_run(site.ledger, site.repository, run)
    looked: list[str] = []
    point_of_run = Repository.point_of_run

    def finish_comes_late(repository: Repository, its_run: str, its_vm: str) -> Point | None:
        """plan-vm has seen that the VM is to be planned; now finish-vm of before the loss ends."""
        if not looked:
            looked.append(its_vm)
            site.ledger.finish_vm(run, vm, finished)
        return point_of_run(repository, its_run, its_vm)

    monkeypatch.setattr(Repository, "point_of_run", finish_comes_late)
    result = site.work(run)
    assert looked == [vm]
    assert result is not None
    assert [(row.name, row.point is not None) for row in result.disks] == [("root", True)]
