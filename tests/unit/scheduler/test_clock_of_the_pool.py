"""A pool's clock is a hint: order, base and retention follow our runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

import pytest

from infra.simulator import DiskSpec, PoolSpec, Timing, VmSpec
from scheduler.runs.values import RunResult
from tests.failure_report import run_in_short
from tests.unit.scheduler.conftest import Site

SPEC = PoolSpec(
    hosts=1,
    vms=(VmSpec("db", (DiskSpec(2 << 20, "root"),)),),
    timing=Timing(login_failure_delay=0.1, data_destroy_wait=0.2, slot_release_delay=0.02),
)


@pytest.fixture
def site(make_site: Callable[[PoolSpec], Site]) -> Site:
    """With a policy that keeps two points."""
    site = make_site(SPEC)
    policy = {"pool": "lab", "include": {"names": ["*"]}, "schedule": "0 1 * * *", "keep": {"last": 2}}
    site.settings = site.settings.model_copy(update={"policies": {"nightly": policy}})
    site.context = replace(site.context, settings=site.settings)
    return site


def night(site: Site) -> RunResult:
    [disk] = site.disks
    site.pool.write(disk, 0, bytes(range(256)))
    result = site.work(site.submit("nightly"))
    assert result is not None
    assert result.status == "succeeded", run_in_short(result)
    return result


def points(site: Site) -> list[str]:
    return [point.id for point in site.repository.points()]


def test_two_nights_of_a_pool_30_days_ahead_cost_no_later_night(site: Site) -> None:
    ahead, after = [], []
    site.pool.state.clock_ahead = timedelta(days=30)
    for _ in range(2):
        result = night(site)
        [warning] = result.warnings
        assert "the pool's clock is 43200 min ahead of this machine's" in warning
        ahead.append(result.disks[0].point)
    site.pool.state.clock_ahead = timedelta(0)
    for number in range(3):
        result = night(site)
        [row] = result.disks
        assert (row.mode, result.warnings) == ("incremental", ())
        assert site.restored(row.point, row.vdi) == site.pool.content(row.vdi or "")
        after.append(row.point)
        assert points(site) == [*ahead, *after[-2:]], f"night {number}"
