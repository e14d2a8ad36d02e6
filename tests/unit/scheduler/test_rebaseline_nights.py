"""The base of a disk is lost between two nights: the second reads all, and stores what differs."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import redis

from infra.simulator import DiskSpec, PoolSpec, Timing, VmSpec
from scheduler.runs.resuming import resume_run
from scheduler.runs.values import RunResult
from tests.unit.scheduler.conftest import Site
from workers.repository import Store, restore_disk, verify_points
from workers.repository.store import Buffer
from workers.xenapi import Session

MiB = 1 << 20
SPEC = PoolSpec(
    hosts=1,
    vms=(VmSpec("db", (DiskSpec(70 * MiB + 512, "data"),)),),
    timing=Timing(login_failure_delay=0.1, data_destroy_wait=0.2, slot_release_delay=0.05),
)
REASON = "the base snapshot is no longer on the pool"


@pytest.fixture
def site(make_site: Callable[[PoolSpec], Site]) -> Site:
    """A disk of three batches with data in each, backed up once; its base is gone, and some was written."""
    made = make_site(SPEC)
    [vdi] = made.disks
    made.pool.write(vdi, 0, b"first" * 5000)
    made.pool.write(vdi, 33 * MiB, b"second" * 5000)
    made.pool.write(vdi, 70 * MiB, b"last" * 100)
    made.pool.write_random(vdi, blocks=30, seed=1)
    assert made.night().status == "succeeded"
    [base] = made.pool.leftovers()["vdi_snapshots"]
    with Session.login("lab", made.settings.pool("lab")) as session:
        session.call("VDI.destroy", session.call("VDI.get_by_uuid", base["uuid"]))
    made.pool.write_random(vdi, blocks=2, seed=2)
    return made


def assert_second_night(site: Site, result: RunResult | None, *, stored: range) -> None:
    assert result is not None
    [row] = result.disks
    assert (result.status, row.mode) == ("succeeded", "full")
    assert REASON in row.reason
    assert row.read_bytes == row.changed_bytes == len(site.pool.content(site.disks[0]))
    assert row.stored_bytes in stored
    assert site.restored(row.point, site.disks[0]) == site.pool.content(site.disks[0])
    assert list(site.store.list("known/")) == []
    points = list(site.repository.points())
    assert verify_points(site.store, site.keys, points, threads=2).damaged == []


LITTLE = range(2 * 65536, 4 * 65536)
ALL = range(20 * MiB, 30 * MiB)


def test_only_what_differs_is_stored_and_the_nights_go_on(site: Site, tmp_path: Path) -> None:
    [vdi] = site.disks
    first_content = site.restored(next(site.repository.points()).id, vdi)
    assert_second_night(site, site.night(), stored=LITTLE)
    changed = site.pool.write_random(vdi, blocks=3, seed=3)
    third = site.night()
    [row] = third.disks
    assert (row.mode, row.read_bytes) == ("incremental", len(changed) * 65536)
    assert site.restored(row.point, vdi) == site.pool.content(vdi)
    first, second, _ = site.repository.points()
    assert site.restored(first.id, vdi) == first_content
    site.repository.forget(first)
    restore_disk(site.store, site.keys, second.disks[0], tmp_path / "again", threads=2)


def test_a_disk_that_has_grown_too(site: Site) -> None:
    site.pool.resize(site.disks[0], 75 * MiB)
    assert_second_night(site, site.night(), stored=range(2 * 65536, 6 * 65536))


def test_a_last_point_that_cannot_be_read_costs_only_its_help(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    [segment] = (site.folder / "store" / "segments").glob("*/*/*")
    segment.chmod(0o600)
    kept = segment.read_bytes()
    segment.write_bytes(kept[:-1] + bytes([kept[-1] ^ 1]))
    run = site.submit()
    with caplog.at_level(logging.WARNING):
        site.work(run, until=lambda step: step == "finish-vm")
    assert "not compared with its last restore point, all is stored" in caplog.text
    segment.write_bytes(kept)  # for the verification of the first point
    assert_second_night(site, site.work(run), stored=ALL)


class StoreWithEvents:
    """The worker's store, with known hashes that are damaged on the way, or an event after a pack was put."""

    def __init__(self, store: Store, *, damaged: bool = False, event: Callable[[], object] = list) -> None:
        self._store = store
        self._damaged = damaged
        self._event = event

    def put_if_absent(self, key: str, data: Buffer) -> None:
        self._store.put_if_absent(key, data)
        self._event()

    def get_range(self, key: str, start: int, length: int) -> bytes:
        data = self._store.get_range(key, start, length)
        return bytes(reversed(data)) if self._damaged else data


def test_known_hashes_that_cannot_be_read_cost_only_their_help(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    store = StoreWithEvents(site.store, damaged=True)
    site.stream_context = replace(site.stream_context, store=store)  # type: ignore[arg-type]
    with caplog.at_level(logging.WARNING):
        assert_second_night(site, site.night(), stored=ALL)
    said = "its blocks are not compared, all are stored: object known/"
    assert caplog.text.count(said) == 1, "of three batches"


def test_a_run_that_redis_forgets_in_the_middle_still_compares(site: Site, redis_client: redis.Redis) -> None:
    forgotten: list[str] = []

    def forget() -> None:
        if not forgotten:
            forgotten.append(run)
            redis_client.flushall()
            assert site.ledger.found()

    run = site.submit()
    undisturbed = site.stream_context
    store = StoreWithEvents(site.store, event=forget)
    site.stream_context = replace(undisturbed, store=store)  # type: ignore[arg-type]
    assert site.work(run, stop=lambda: bool(forgotten)) is None
    site.stream_context = undisturbed
    assert resume_run(site.ledger, site.repository, run)
    assert_second_night(site, site.work(run), stored=LITTLE)
