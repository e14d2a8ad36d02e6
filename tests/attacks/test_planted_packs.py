"""Who has a worker's key and its credentials for the store puts packs of his own into a run at work."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import redis

from infra.simulator import DiskSpec, PoolSpec, Timing, VmSpec
from scheduler.runs.facts import planned_vm
from scheduler.runs.resuming import resume_run
from tests.failure_report import run_in_short
from tests.unit.scheduler.conftest import Site
from workers.repository import PackWriter

SPEC = PoolSpec(
    hosts=1,
    vms=(VmSpec("web", (DiskSpec(40 << 20, "root"),)),),
    timing=Timing(login_failure_delay=0.1, data_destroy_wait=0.2, slot_release_delay=0.02),
)


def plant(site: Site, run: str) -> str:
    """A pack of the first batch with blocks that the disk does not have; returns its name. He knows what a
    worker is told, so also the snapshot."""
    [disk] = site.disks
    plan = site.repository.plan(run, disk)
    [vm] = [vm["uuid"] for vm in site.pool.vms()]
    recorded = planned_vm(site.repository, run, vm)
    assert recorded is not None
    [planned] = recorded.disks
    writer = PackWriter(
        site.stream_context.keys,
        disk=disk,
        run=run,
        batch=0,
        snapshot=planned.snapshot,
        virtual_size=plan.virtual_size,
    )
    blocks = plan.batch(0)
    writer.add(blocks, memoryview(np.full(len(blocks) << 16, 0x66, np.uint8)).cast("B"))
    pack = writer.finish()
    site.store.put_if_absent(pack.key, pack.data)
    return pack.key


def finish_is_due(step: str) -> bool:
    return step == "finish-vm"


@pytest.mark.parametrize("redis_is_emptied", [False, True])
def test_a_planted_pack_is_never_restored(
    make_site: Callable[[PoolSpec], Site], redis_client: redis.Redis, redis_is_emptied: bool
) -> None:
    site = make_site(SPEC)
    run = site.submit()
    assert site.work(run, until=finish_is_due) is None
    planted = plant(site, run)
    if redis_is_emptied:
        redis_client.flushall()
        assert site.ledger.found()
        assert resume_run(site.ledger, site.repository, run)
    result = site.work(run)
    assert result is not None
    assert result.status == "succeeded", run_in_short(result)
    [row] = result.disks
    assert site.restored(row.point, row.vdi) == site.pool.content(row.vdi or "")
    assert [planted in line for line in result.warnings] == [True], "it is an alarm"
