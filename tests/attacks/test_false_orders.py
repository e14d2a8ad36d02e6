"""Who can write to Redis changes what a worker is to read: another disk's snapshot, another size."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import redis

from infra.simulator import DiskSpec, PoolSpec, Timing, VmSpec
from tests.failure_report import run_in_short
from tests.unit.scheduler.conftest import Site

SPEC = PoolSpec(
    hosts=1,
    vms=(VmSpec("web", (DiskSpec(1 << 20, "root"), DiskSpec(1 << 20, "data"))),),
    timing=Timing(login_failure_delay=0.1, data_destroy_wait=0.2, slot_release_delay=0.02),
)


def planned(site: Site) -> str:
    """A run whose disks wait for their streams."""
    run = site.submit()
    assert site.work(run, stop=lambda: len(site.ledger.progress(run).disks) == 2) is None
    return run


def test_an_untouched_order_is_followed(make_site: Callable[..., Site]) -> None:
    site = make_site(SPEC, encrypted=True)
    result = site.night()
    assert result.status == "succeeded", run_in_short(result)
    for row in result.disks:
        assert site.restored(row.point, row.vdi) == site.pool.content(row.vdi or "")


@pytest.mark.parametrize("field", ["snapshot", "virtual_size"])
def test_a_changed_order_is_not_followed(
    make_site: Callable[..., Site], redis_client: redis.Redis, field: str
) -> None:
    """Both disks are of one size, so nothing else would tell."""
    site = make_site(SPEC, encrypted=True)
    run = planned(site)
    root, data = site.disks
    key, other = (f"cbtfleet:disk:{run}/{disk}" for disk in (root, data))
    value = redis_client.hget(other, field) if field == "snapshot" else str(1 << 19)
    redis_client.hset(key, field, value or b"")
    result = site.work(run)
    assert result is not None
    rows = {row.vdi: row for row in result.disks}
    assert "not signed" in (rows[root].error or ""), run_in_short(result)
    assert not list(site.store.list(f"packs/{root}/")), "it was read"
    assert rows[data].error is None
    assert site.restored(rows[data].point, data) == site.pool.content(data)
