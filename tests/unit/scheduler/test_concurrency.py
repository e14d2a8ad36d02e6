"""How many VMs are snapshotted at once, with several schedulers: as the pool itself counts it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace

import pytest

from infra.simulator import DiskSpec, PoolSpec, Timing, VmSpec
from scheduler.context import ControlContext
from scheduler.steps import do_step
from tests.unit.scheduler.conftest import Site

MakeSite = Callable[[PoolSpec], Site]
TIMING = Timing(login_failure_delay=0.1, data_destroy_wait=0.2, slot_release_delay=0.05)


def site_of(make_site: MakeSite, vms: int, sr: str, seconds: float, **settings: int) -> Site:
    """`seconds`: how long an operation on the storage takes."""
    machines = tuple(
        VmSpec(f"vm{number:02}", (DiskSpec(1 << 20, cbt=True, sr=sr),), running=False)  # type: ignore[arg-type]
        for number in range(vms)
    )
    site = make_site(
        PoolSpec(hosts=1, vms=machines, timing=replace(TIMING, operation_delay=seconds), local_srs=True)
    )
    site.settings.pools["lab"] = site.settings.pool("lab").model_copy(update=settings)
    return site


def plan_all(site: Site, threads: int) -> list[str]:
    """Two schedulers of so many threads each, until every VM has its snapshot; what went wrong in them."""
    run = site.submit()
    wrong: list[str] = []
    stop = threading.Event()

    def work(context: ControlContext) -> None:
        try:
            while not stop.is_set():
                for step in site.ledger.due_steps(1):
                    if step.name in ("plan-run", "plan-vm"):
                        do_step(context, step)
                site.ledger.wait_for_work(0.05)
        except Exception as error:  # noqa: BLE001 a test must hear of it
            wrong.append(repr(error))

    contexts = [ControlContext(site.settings, site.ledger, site.repository, name) for name in ("one", "two")]
    workers = [threading.Thread(target=work, args=(context,)) for context in contexts for _ in range(threads)]
    for worker in workers:
        worker.start()
    done = threading.Event()
    for _ in range(600):
        states = {vm.state for vm in site.ledger.progress(run).vms}
        if wrong or (states and "planning" not in states):
            break
        done.wait(0.1)
    stop.set()
    for worker in workers:
        worker.join()
    for context in contexts:
        context.sessions.close()
    assert len(site.pool.leftovers()["vm_snapshots"]) == len(site.pool.vms())
    return wrong


def test_twelve_vms_of_one_storage_and_two_schedulers(make_site: MakeSite) -> None:
    site = site_of(make_site, 12, "shared", 0.15, snapshots_at_once_per_sr=2)
    assert plan_all(site, threads=4) == []
    log = site.pool.log()
    assert log["calls"]["Async.VM.snapshot"] == 12
    assert log["peak_calls"]["VM.snapshot"] == 2
    assert site.ledger.counters()["permits_waited"] > 0


@pytest.mark.parametrize(("settings", "most"), [({}, 1), ({"snapshots_at_once_per_sr": 9}, 3)])
def test_the_limits_of_storage_and_pool(make_site: MakeSite, settings: dict[str, int], most: int) -> None:
    site = site_of(make_site, 5, "local", 0.5, **settings, snapshots_at_once=3)
    assert plan_all(site, threads=3) == []
    assert site.pool.log()["peak_calls"]["VM.snapshot"] == most
