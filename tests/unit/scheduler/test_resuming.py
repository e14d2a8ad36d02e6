"""Redis loses everything in the middle of a run: it goes on from what the repository has, on its snapshot."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import redis

from infra.simulator import DiskSpec, PoolSpec, Timing, VmSpec
from scheduler.policies.requests import RunRequest
from scheduler.runs.facts import create_run
from scheduler.runs.resuming import Resumer, resume_lost_runs, resume_run
from scheduler.runs.values import ResultRow, RunFacts, RunResult
from tests.failure_report import run_in_short
from tests.unit.scheduler.conftest import Site
from tests.until import until
from workers.repository import Store
from workers.xenapi import Session

MiB = 1 << 20
BATCH = 32 * MiB
SPEC = PoolSpec(
    hosts=2,
    vms=(VmSpec("db", (DiskSpec(100 * MiB, "data"),)), VmSpec("web", (DiskSpec(2 * MiB, "root"),))),
    timing=Timing(login_failure_delay=0.1, data_destroy_wait=0.2, slot_release_delay=0.05),
)


@pytest.fixture
def site(make_site: Callable[[PoolSpec], Site]) -> Site:
    return make_site(SPEC)


class StoreWithEvent:
    """The real store, where something happens after a pack was put."""

    def __init__(self, store: Store, event: Callable[[str], object]) -> None:
        self._store = store
        self._event = event

    def put_if_absent(self, key: str, data: bytes) -> None:
        self._store.put_if_absent(key, data)
        self._event(key)


class Forgetful:
    """Empties Redis, and declares it new at once: the barrier is the ledger's tests' matter."""

    def __init__(self, site: Site, client: redis.Redis) -> None:
        self._site = site
        self._client = client
        self.times = 0

    def forget(self) -> None:
        self.times += 1
        self._client.flushall()
        assert self._site.ledger.found()


@pytest.fixture
def redis_forgets(site: Site, redis_client: redis.Redis) -> Forgetful:
    return Forgetful(site, redis_client)


def rows(result: RunResult) -> dict[str, ResultRow]:
    return {row.vdi: row for row in result.disks if row.vdi is not None}


def rename(site: Site, vm: str) -> None:
    with Session.login("lab", site.settings.pool("lab")) as session:
        session.call("VM.set_name_label", session.call("VM.get_by_uuid", vm), "renamed")


def batches_read(site: Site, vdi: str) -> list[int]:
    """Of the snapshots of this disk, by the hosts' own log."""
    snapshots = {
        each["uuid"] for each in site.pool.leftovers()["vdi_snapshots"] if each["snapshot_of"] == vdi
    }
    reads = [read for read in site.pool.log()["reads"] if read["vdi"] in snapshots]
    return sorted({read["offset"] // BATCH for read in reads})


def assert_whole(site: Site, run: str, result: RunResult) -> None:
    assert result.status == "succeeded", run_in_short(result)
    assert {row.read_bytes for row in result.disks} == {100 * MiB, 2 * MiB}
    for vdi in site.disks:
        assert site.restored(rows(result)[vdi].point, vdi) == site.pool.content(vdi)
        [base] = [each for each in site.pool.leftovers()["vdi_snapshots"] if each["snapshot_of"] == vdi]
        assert base["type"] == "cbt_metadata"
    site.log_out()
    left = site.pool.leftovers()
    assert (left["vm_snapshots"], left["plugged_vbds"], left["sessions"]) == ([], [], 0)
    assert [info.key for info in site.store.list("runs/")] == [f"runs/{run}/result"]
    assert [point.run for point in site.repository.points()] == [run, run]


def test_only_batches_without_a_pack_are_read_again_and_from_the_same_snapshot(
    site: Site, redis_forgets: Forgetful
) -> None:
    [data, _] = site.disks
    packs: list[str] = []

    def second_pack(key: str) -> None:
        if key.startswith(f"packs/{data}"):
            packs.append(key)
            if len(packs) == 2:
                redis_forgets.forget()

    run = site.submit()
    undisturbed = site.stream_context
    site.stream_context = replace(undisturbed, store=StoreWithEvent(site.store, second_pack))  # type: ignore[arg-type]
    site.work(run, stop=lambda: redis_forgets.times > 0)
    there = {int(info.key.rsplit("/", 1)[1][:8]) for info in site.store.list(f"packs/{data}/{run}/")}
    assert 2 <= len(there) < 4
    site.pool.clear_log()
    assert site.ledger.runs() == []
    assert resume_lost_runs(site.ledger, site.repository) == [run]
    assert resume_lost_runs(site.ledger, site.repository) == [], "another scheduler finds it done"
    site.stream_context = undisturbed
    result = site.work(run)
    assert result is not None
    assert batches_read(site, data) == sorted({0, 1, 2, 3} - there)
    assert site.pool.log()["calls"].get("Async.VM.snapshot", 0) <= 1, "none of the VM that was planned"
    assert_whole(site, run, result)


@pytest.mark.parametrize("lost_at", ["plan-vm", "finish-vm", "end-run"])
def test_a_run_goes_on_from_wherever_it_was_lost(site: Site, redis_forgets: Forgetful, lost_at: str) -> None:
    run = site.submit()
    site.work(run, until=lambda step: step == lost_at)
    reads = len(site.pool.log()["reads"])
    redis_forgets.forget()
    rename(site, site.pool.vms()[1]["uuid"])
    assert resume_run(site.ledger, site.repository, run)
    result = site.work(run)
    assert result is not None
    assert sorted(row.vm for row in result.disks) == ["db", "web"], "those that were chosen at first"
    assert_whole(site, run, result)
    log = site.pool.log()
    assert log["calls"]["Async.VM.snapshot"] == 2, "one a VM"
    if lost_at == "end-run":
        assert len(log["reads"]) == reads, "all was in the store"
        assert [row.mode for row in result.disks] == ["full", "full"]
        assert all(row.reason and row.stored_bytes for row in result.disks)


def test_a_disk_whose_snapshot_is_gone_fails_with_that_reason(site: Site, redis_forgets: Forgetful) -> None:
    [data, root] = site.disks
    run = site.submit()

    def first_pack(key: str) -> None:
        if key.startswith(f"packs/{data}") and not redis_forgets.times:
            redis_forgets.forget()

    undisturbed = site.stream_context
    site.stream_context = replace(undisturbed, store=StoreWithEvent(site.store, first_pack))  # type: ignore[arg-type]
    site.work(run, stop=lambda: redis_forgets.times > 0)
    site.stream_context = undisturbed
    with Session.login("lab", site.settings.pool("lab")) as session:
        for made in site.pool.leftovers()["vm_snapshots"]:
            session.call_async("VM.destroy", session.call("VM.get_by_uuid", made))
        for each in site.pool.leftovers()["vdi_snapshots"]:
            if each["snapshot_of"] == data:
                site.pool.wait_until_let_go()
                session.call_async("VDI.destroy", session.call("VDI.get_by_uuid", each["uuid"]))
    assert resume_run(site.ledger, site.repository, run)
    result = site.work(run)
    assert result is not None
    assert result.status == "partial"
    assert "is no longer on the pool, so it cannot be read on" in rows(result)[data].error
    assert rows(result)[root].error is None
    site.log_out()
    left = site.pool.leftovers()
    assert (left["vm_snapshots"], left["plugged_vbds"]) == ([], [])


def test_a_run_that_had_ended_ends_again_with_its_own_result(site: Site, redis_forgets: Forgetful) -> None:
    run = site.submit()
    result = site.work(run)
    assert result is not None
    redis_forgets.forget()
    assert not resume_run(site.ledger, site.repository, run), "it is not open"
    facts = RunFacts(RunRequest("lab"), result.started)
    create_run(site.ledger, run, facts)  # as a scheduler that had read the record just before the run ended
    assert site.work(run) == result
    assert_whole(site, run, result)


def test_the_scheduler_looks_by_itself(site: Site, redis_client: redis.Redis) -> None:
    run = site.submit()
    site.work(run, until=lambda step: step == "plan-vm")
    redis_client.flushall()
    resumer = Resumer(site.ledger, site.repository)
    resumer.start()
    until(lambda: site.ledger.runs() == [run])
    redis_client.flushall()
    until(lambda: site.ledger.runs() == [run])
    resumer.stop()
