"""Whole nights on a pool whose connection is in trouble: all disks are backed up, and restore to the byte."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from infra.simulator import DiskSpec, PoolSpec, SimulatedPool, Timing, VmSpec
from scheduler.runs.values import RunResult
from tests.failure_report import run_in_short
from tests.unit.scheduler.conftest import Site
from workers.xenapi import Session

MiB = 1 << 20
SPEC = PoolSpec(
    hosts=3,
    vms=(VmSpec("db", (DiskSpec(4 * MiB, "root"), DiskSpec(6 * MiB, "data"))),),
    timing=Timing(login_failure_delay=0.1, data_destroy_wait=0.2, slot_release_delay=0.05),
)


@pytest.fixture
def site(make_site: Callable[[PoolSpec], Site]) -> Site:
    """A pool whose disks have been backed up once, and changed since."""
    made = make_site(SPEC)
    assert made.night().status == "succeeded"
    for number, vdi in enumerate(made.disks):
        made.pool.write_random(vdi, blocks=8, seed=number)
    made.pool.clear_log()
    return made


def one_host_dies(pool: SimulatedPool) -> None:
    pool.set_host(pool.hosts[1].uuid, "down")


def another_master(pool: SimulatedPool) -> None:
    pool.set_master(pool.hosts[2].uuid)


def one_address_each_does_not_answer(pool: SimulatedPool) -> None:
    for host in pool.hosts:
        host.close_address(host.addresses[0])


def a_network_that_reaches_no_host_but_one(pool: SimulatedPool) -> None:
    for host in pool.hosts[1:]:
        for address in host.addresses:
            host.close_address(address)


def an_old_certificate_on_one_host(pool: SimulatedPool) -> None:
    pool.rotate_certificate(pool.hosts[0].uuid)


def all_sessions_end(pool: SimulatedPool) -> None:
    pool.end_sessions()


def the_master_restarts(pool: SimulatedPool) -> None:
    pool.set_host(pool.hosts[0].uuid, "booting")
    threading.Timer(0.5, pool.set_host, (pool.hosts[0].uuid, "up")).start()


def calls_find_a_full_queue(pool: SimulatedPool) -> None:
    pool.add_fault(xapi="VM.snapshot", failure=["TOO_MANY_PENDING_TASKS"], count=1)


@pytest.mark.parametrize(
    "trouble",
    [
        one_host_dies,
        another_master,
        one_address_each_does_not_answer,
        a_network_that_reaches_no_host_but_one,
        an_old_certificate_on_one_host,
        all_sessions_end,
        the_master_restarts,
        calls_find_a_full_queue,
    ],
)
def test_the_night_succeeds(site: Site, trouble: Callable[[SimulatedPool], None]) -> None:
    trouble(site.pool)
    result = site.night()
    assert result.status == "succeeded", run_in_short(result)
    assert {row.mode for row in result.disks} == {"incremental"}
    assert_restores(site, result)
    site.log_out()
    assert site.pool.leftovers()["sessions"] == 0
    assert site.pool.log()["calls"].get("session.login_with_password", 0) <= 12


def test_sessions_that_end_all_the_time_cost_no_disk(site: Site) -> None:
    def end_sessions() -> bool:
        site.pool.end_sessions()
        return False

    result = site.work(site.submit(), stop=end_sessions)
    assert result is not None
    assert result.status == "succeeded"
    assert_restores(site, result)


def test_a_host_in_maintenance_is_spared(site: Site) -> None:
    host = site.pool.hosts[0]
    with Session.login("lab", site.settings.pool("lab")) as session:
        session.call("host.disable", session.call("host.get_by_uuid", host.uuid))
    assert site.night().status == "succeeded"
    assert host.uuid not in {each["host"] for each in site.pool.log()["connections"]}


def assert_restores(site: Site, result: RunResult) -> None:
    points = {row.vdi: str(row.point) for row in result.disks}
    for vdi in site.disks:
        assert site.restored(points[vdi], vdi) == site.pool.content(vdi)
