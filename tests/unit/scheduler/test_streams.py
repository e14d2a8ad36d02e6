"""How a stream ends, as the slot that it held shows it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from infra.simulator import DiskSpec, PoolSpec, Timing, VmSpec
from scheduler.steps import do_step
from tests.unit.scheduler.conftest import Site
from workers.fleet import Grant, Ledger, LedgerUnreachable
from workers.repository import Store
from workers.stream.stream import run_stream

SPEC = PoolSpec(
    hosts=1,
    vms=(VmSpec("db", (DiskSpec(4 << 20, "root"),)),),
    timing=Timing(login_failure_delay=0.1, data_destroy_wait=0.2, slot_release_delay=0.05),
)


@pytest.fixture
def site(make_site: Callable[[PoolSpec], Site]) -> Site:
    return make_site(SPEC)


class StoreWithEvent:
    """The real store, where something happens after a pack was put."""

    def __init__(self, store: Store, event: Callable[[], object]) -> None:
        self._store = store
        self._event = event

    def put_if_absent(self, key: str, data: bytes) -> None:
        self._store.put_if_absent(key, data)
        self._event()


def first_grant(site: Site, run: str) -> Grant:
    for _ in range(50):
        site.ledger.node_alive("node", 4)
        site.count_hosts()
        for step in site.ledger.due_steps():
            do_step(site.context, step)
        for grant in site.ledger.admit():
            return grant
        site.ledger.wait_for_work(0.1)
    raise AssertionError(f"nothing was granted: {site.ledger.progress(run)}")


@pytest.mark.parametrize("cancelled", [False, True])
def test_a_slot_rests_longer_when_nobody_saw_the_host_let_go(site: Site, cancelled: bool) -> None:
    run = site.submit()
    grant = first_grant(site, run)
    store = StoreWithEvent(site.store, lambda: cancelled and site.ledger.cancel(run))
    run_stream(replace(site.stream_context, store=store), grant)  # type: ignore[arg-type]
    slot = site.ledger.slots(grant.pool, grant.host)[grant.slot]
    timing = site.ledger.timing
    assert slot.state == "QUARANTINE"
    assert (slot.expires_in > timing.linger) is cancelled
    [disk] = site.ledger.progress(run).disks
    assert (disk.state, disk.attempts) == ("cancelled" if cancelled else "complete", 0)


class LedgerAway:
    """The real ledger, which does not answer the first calls of some methods."""

    def __init__(self, ledger: Ledger, **times: int) -> None:
        self._ledger = ledger
        self._times = times

    def __getattr__(self, name: str) -> object:
        if self._times.get(name, 0) > 0:
            self._times[name] -= 1
            return self._away
        return getattr(self._ledger, name)

    def _away(self, *_: object, **__: object) -> None:
        raise LedgerUnreachable("Redis does not answer")


def test_a_redis_that_is_away_for_a_moment_costs_no_stream(site: Site) -> None:
    run = site.submit()
    grant = first_grant(site, run)
    away = LedgerAway(site.ledger, opened=1, take=1, commit=2, release=1)
    run_stream(replace(site.stream_context, ledger=away), grant)  # type: ignore[arg-type]
    slot = site.ledger.slots(grant.pool, grant.host)[grant.slot]
    assert slot.state == "QUARANTINE"
    [disk] = site.ledger.progress(run).disks
    assert (disk.state, disk.attempts, disk.error) == ("complete", 0, None)
