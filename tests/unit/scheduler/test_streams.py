"""How a stream ends, as the slot that it held shows it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace

import pytest

from infra.simulator import DiskSpec, PoolSpec, Timing, VmSpec
from scheduler.steps import do_step
from tests.unfit_machine import with_bad_memory
from tests.unit.scheduler.conftest import Site
from workers.fleet import DiskWork, Grant, Ledger, LedgerUnreachable
from workers.repository import ClockWrong, PackWriter, Store
from workers.stream.reports import NoReports
from workers.stream.stream import run_stream
from workers.xenapi import Session

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


def test_a_host_that_does_not_end_the_connection_has_not_let_go_of_the_disk(site: Site) -> None:
    """It may still count it: the slot rests for as long as after any other bad end."""
    run = site.submit()
    grant = first_grant(site, run)
    site.pool.add_fault(nbd="late_end", seconds=5)
    deadlines = replace(site.stream_context.deadlines, close=0.3)
    run_stream(replace(site.stream_context, deadlines=deadlines), grant)
    slot = site.ledger.slots(grant.pool, grant.host)[grant.slot]
    timing = site.ledger.timing
    assert slot.state == "QUARANTINE"
    assert slot.expires_in > timing.linger
    [disk] = site.ledger.progress(run).disks
    assert (disk.state, disk.attempts) == ("complete", 0)


def test_an_export_that_is_larger_than_what_was_planned_is_not_read(site: Site) -> None:
    """Its plan knows nothing of the rest, and the restore point would lack it."""
    run = site.submit()
    grant = first_grant(site, run)
    [disk] = site.ledger.progress(run).disks
    with Session.login("lab", site.settings.pool("lab")) as session:
        snapshot = session.call("VDI.get_by_uuid", site.pool.leftovers()["vdi_snapshots"][0]["uuid"])
        session.call("VDI.resize", snapshot, 6 << 20)
    run_stream(site.stream_context, grant)
    [disk] = site.ledger.progress(run).disks
    assert (disk.state, disk.done) == ("failed", 0)
    assert disk.error is not None
    assert f"the host exports {6 << 20} bytes but the plan is for {4 << 20}" in disk.error
    assert list(site.store.list("packs/")) == []


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


class Parent(NoReports):
    """Notes that the machine is unfit, and what the slot of the stream was at that moment."""

    def __init__(self, site: Site, grant: Grant) -> None:
        self._site = site
        self._grant = grant
        self.heard: list[tuple[str, int, str]] = []

    def unfit(self, why: str, exit_code: int) -> None:
        slot = self._site.ledger.slots(self._grant.pool, self._grant.host)[self._grant.slot]
        self.heard.append((why, exit_code, slot.state))


@pytest.mark.parametrize(("fault", "exit_code"), [("memory", 4), ("clock", 1)])
def test_a_machine_that_is_at_fault_is_named_before_its_batches_are_given_back_and_costs_no_attempt(
    site: Site, fault: str, exit_code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = site.submit()
    grant = first_grant(site, run)
    parent = Parent(site, grant)
    context = replace(site.stream_context, reports=parent)
    if fault == "memory":
        monkeypatch.setattr(PackWriter, "_compare", with_bad_memory(PackWriter._compare, 3))
        worker = context.settings.worker.model_copy(update={"check_sealed": True})
        context = replace(context, settings=context.settings.model_copy(update={"worker": worker}))
    else:

        def refuse() -> None:
            raise ClockWrong("the store says that this machine's clock is wrong; set the time")

        context = replace(context, store=StoreWithEvent(site.store, refuse))  # type: ignore[arg-type]
    run_stream(context, grant)
    [(why, code, slot)] = parent.heard
    assert why.startswith('VM "db", disk root: ')
    assert ("this machine must not write" if fault == "memory" else "clock is wrong") in why
    assert (code, slot) == (exit_code, "HELD")
    assert site.ledger.slots(grant.pool, grant.host)[grant.slot].state == "QUARANTINE"
    [disk] = site.ledger.progress(run).disks
    assert (disk.state, disk.attempts, disk.done, disk.error) == ("streaming", 0, 0, why)


class LateClaim(LedgerAway):
    """The answer to the claim comes when the lease that it gave is over."""

    def __init__(self, ledger: Ledger, wait: Callable[[], None]) -> None:
        super().__init__(ledger)
        self._wait = wait

    def claim(self, grant: Grant, owner: str) -> DiskWork | None:
        work = self._ledger.claim(grant, owner)
        self._wait()
        return work


def test_who_hears_too_late_that_a_slot_is_his_does_not_connect(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a clock that is put forward: a lease is half a minute."""
    passed = 0.0
    clock = SimpleNamespace(monotonic=lambda: time.monotonic() + passed, sleep=time.sleep)
    monkeypatch.setattr("workers.stream.stream.time", clock)
    monkeypatch.setattr("workers.stream.lease.time", clock)

    def wait() -> None:
        nonlocal passed
        passed += site.ledger.timing.cut_after

    run = site.submit()
    grant = first_grant(site, run)
    run_stream(replace(site.stream_context, ledger=LateClaim(site.ledger, wait)), grant)  # type: ignore[arg-type]
    assert site.pool.log()["connections"] == []
    [disk] = site.ledger.progress(run).disks
    assert (disk.state, disk.done) == ("streaming", 0)
