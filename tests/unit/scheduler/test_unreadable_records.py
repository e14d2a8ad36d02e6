"""A record in Redis that cannot be read costs what it is about, with that line; every run comes to an end."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
import redis

from infra.simulator import DiskSpec, PoolSpec, Timing, VmSpec
from scheduler.policies.policy import Retry
from scheduler.policies.requests import request_for_vms
from scheduler.runs.facts import result_of
from scheduler.runs.submit import submit_run
from scheduler.runs.values import ResultRow, RunResult
from tests.unit.scheduler.conftest import Site
from workers.fleet import DiskWork
from workers.repository import AccessDenied

MiB = 1 << 20
SPEC = PoolSpec(
    hosts=1,
    vms=(VmSpec("db", (DiskSpec(2 * MiB, "data"),)), VmSpec("web", (DiskSpec(2 * MiB, "root"),))),
    timing=Timing(login_failure_delay=0.1, data_destroy_wait=0.2, slot_release_delay=0.05),
)


@pytest.fixture
def site(make_site: Callable[[PoolSpec], Site]) -> Site:
    return make_site(SPEC)


class Broken:
    """Breaks records of one run in Redis."""

    def __init__(self, site: Site, client: redis.Redis) -> None:
        request = replace(request_for_vms(site.settings, "lab", ["db", "web"]), retry=Retry(give_up_after=1))
        self.run = submit_run(site.ledger, request)
        self._client = client

    def break_run(self) -> str:
        return self._break(f"cbtfleet:run:{self.run}", "facts", f"run {self.run} in Redis")

    def break_vm(self, vm: str) -> str:
        return self._break(f"cbtfleet:vm:{self.run}/{vm}", "facts", f"VM {vm} of run {self.run} in Redis")

    def break_disk(self, disk: str) -> str:
        return self._break(f"cbtfleet:facts:{self.run}", disk, f"disk {disk} of run {self.run} in Redis")

    def _break(self, key: str, field: str, where: str) -> str:
        """Returns what is said of it."""
        assert self._client.hset(key, field, b'{"version":2}') == 0, "there was a record"
        return f"{where}: it was written by another version of cbtfleet; use that one, or upgrade this one"


@pytest.fixture
def broken(site: Site, redis_client: redis.Redis) -> Broken:
    return Broken(site, redis_client)


def ended(site: Site, run: str) -> RunResult:
    """Its result: in the ledger and in the bucket, where nothing of it is open any more."""
    result = site.work(run)
    assert result is not None
    assert result_of(site.repository, run) == result
    assert [info.key for info in site.store.list("runs/")] == [f"runs/{run}/result"]
    return result


def rows(result: RunResult) -> dict[str, ResultRow]:
    return {row.vm: row for row in result.disks}


def assert_committed(site: Site, row: ResultRow) -> None:
    assert (row.error, row.mode) == (None, "full")
    assert site.restored(row.point, row.vdi) == site.pool.content(str(row.vdi))


def test_of_a_run_before_it_is_planned_nothing_is_known(site: Site, broken: Broken) -> None:
    line = broken.break_run()
    result = ended(site, broken.run)
    assert (result.status, result.error, result.disks) == ("failed", line, ())
    assert (result.pool, result.policy) == (None, None)
    assert result.started[:10] == result.ended[:10]


def test_what_the_store_refuses_besides_is_the_ledgers_alone(
    site: Site, broken: Broken, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> None:
        raise AccessDenied("the store denies put")

    broken.break_run()
    monkeypatch.setattr(site.repository, "close_run", refused)
    result = site.work(broken.run)
    assert result is not None
    assert (result.status, result.error, result.pool) == ("failed", "the store denies put", None)


@pytest.mark.parametrize("step", ["plan-vm", "finish-vm", "end-run"])
def test_of_a_run_at_work_everything_is_committed_and_named(site: Site, broken: Broken, step: str) -> None:
    site.work(broken.run, until=lambda due: due == step)
    line = broken.break_run()
    result = ended(site, broken.run)
    assert (result.status, result.error, result.pool) == ("failed", line, "lab")
    assert set(rows(result)) == {"db", "web"}
    for row in result.disks:
        assert_committed(site, row)


@pytest.mark.parametrize("step", ["plan-vm", "finish-vm", "end-run"])
def test_of_a_vm_its_name_is_known(site: Site, broken: Broken, step: str) -> None:
    site.work(broken.run, until=lambda due: due == step)
    [db, _] = site.pool.vms()
    line = broken.break_vm(db["uuid"])
    result = ended(site, broken.run)
    assert result.status == "partial"
    assert (rows(result)["db"].vdi, rows(result)["db"].error) == (None, f'VM "db": {line}')
    assert_committed(site, rows(result)["web"])


def test_a_disk_that_streams_is_not_read_and_given_up(
    site: Site, broken: Broken, monkeypatch: pytest.MonkeyPatch
) -> None:
    [data, _] = site.disks
    lines: list[str] = []
    start_vm = site.ledger.start_vm

    def start_and_break(run: str, vm: str, works: Sequence[DiskWork]) -> bool:
        started = start_vm(run, vm, works)
        if data in {work.disk for work in works}:
            lines.append(broken.break_disk(data))
            [progress] = [disk for disk in site.ledger.progress(run).disks if disk.disk == data]
            assert (progress.facts, progress.error) == (None, lines[0])
        return started

    monkeypatch.setattr(site.ledger, "start_vm", start_and_break)
    result = ended(site, broken.run)
    row = rows(result)["db"]
    assert (result.status, row.name, row.mode, row.point) == ("partial", "data", "full", None)
    assert lines[0] in str(row.error)
    assert_committed(site, rows(result)["web"])
    assert len(site.pool.log()["connections"]) == 1


def test_a_disk_that_was_read_needs_none(site: Site, broken: Broken) -> None:
    site.work(broken.run, until=lambda due: due == "finish-vm")
    read = [disk for disk in site.ledger.progress(broken.run).disks if disk.state == "complete"]
    assert read
    for disk in read:
        broken.break_disk(disk.disk)
    result = ended(site, broken.run)
    assert (result.status, result.error) == ("succeeded", None)
    for row in result.disks:
        assert_committed(site, row)


def test_a_disk_that_was_never_planned_is_not_committed(site: Site, broken: Broken) -> None:
    """Redis has it and the bucket does not: who can write there makes no restore point."""
    site.work(broken.run, until=lambda due: due == "finish-vm")
    [db, _] = site.pool.vms()
    site.store.delete(f"runs/{broken.run}/vms/{db['uuid']}")
    result = ended(site, broken.run)
    row = rows(result)["db"]
    assert (result.status, row.vdi, row.point) == ("partial", site.disks[0], None)
    assert "it is not in what was recorded of the VM's plan" in str(row.error)
    assert [point.vm for point in site.repository.points()] == ["web"]


def test_what_a_run_has_to_do_cannot_be_changed_in_redis(
    site: Site, broken: Broken, redis_client: redis.Redis
) -> None:
    """Of another policy its restore points would be forgotten by that policy's keep."""
    site.work(broken.run, until=lambda due: due == "finish-vm")
    key = f"cbtfleet:run:{broken.run}"
    facts = json.loads(redis_client.hget(key, "facts") or b"")
    facts["request"] |= {"policy": "hourly", "pool": "another"}
    redis_client.hset(key, "facts", json.dumps(facts))
    ended(site, broken.run)
    assert {(point.policy, point.pool) for point in site.repository.points()} == {(None, "lab")}
