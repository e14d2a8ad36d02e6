"""Redis loses everything while a step is done, and the run is back before the step goes on.

The step records nothing: its view of the run, without the disks that are planned again, is not the run's.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
import redis

from infra.simulator import DiskSpec, PoolSpec, Timing, VmSpec
from scheduler.runs.resuming import resume_run
from scheduler.steps import do_step
from tests.failure_report import run_in_short
from tests.unit.scheduler.conftest import Site
from workers.fleet import Outcome
from workers.stream.stream import run_stream

SPEC = PoolSpec(
    hosts=1,
    vms=(VmSpec("web", (DiskSpec(2 << 20, "root"), DiskSpec(1 << 20, "data"))),),
    timing=Timing(login_failure_delay=0.1, data_destroy_wait=0.2, slot_release_delay=0.02),
)


class Loss:
    """Strikes once, before a call of the ledger that the paused step makes."""

    def __init__(
        self, site: Site, client: redis.Redis, run: str, then: tuple[str, ...] = ("plan-run",)
    ) -> None:
        """`then`: the steps that another scheduler has done before the paused one goes on."""
        self._site = site
        self._client = client
        self._run = run
        self._then = then
        self.struck = False

    def strike_before(self, call: str, monkeypatch: pytest.MonkeyPatch) -> None:
        real = getattr(self._site.ledger, call)
        step = threading.current_thread()

        def struck_first(*arguments: Any, **named: Any) -> Any:
            if threading.current_thread() is step and not self.struck:
                self.struck = True
                other = threading.Thread(target=self._lose_and_resume)
                other.start()
                other.join()
            return real(*arguments, **named)

        monkeypatch.setattr(self._site.ledger, call, struck_first)

    def _lose_and_resume(self) -> None:
        """As another scheduler."""
        self._client.flushall()
        assert self._site.ledger.found()
        assert resume_run(self._site.ledger, self._site.repository, self._run)
        for name in self._then:
            [step] = self._site.ledger.due_steps()
            assert step.name == name
            assert do_step(self._site.context, step)


@pytest.mark.parametrize(
    ("step", "call"),
    [
        ("plan-vm", "set_vm_facts"),
        ("plan-vm", "set_hosts"),
        ("plan-vm", "start_vm"),
        ("finish-vm", "vm_facts"),
        ("finish-vm", "vm_disks"),
        ("finish-vm", "set_vm_facts"),
        ("finish-vm", "finish_vm"),
        ("end-run", "progress"),
        ("end-run", "run_facts"),
        ("end-run", "set_run_facts"),
    ],
)
def test_a_step_from_before_the_loss_records_nothing(
    make_site: Callable[[PoolSpec], Site],
    redis_client: redis.Redis,
    monkeypatch: pytest.MonkeyPatch,
    step: str,
    call: str,
) -> None:
    site = make_site(SPEC)
    run = site.submit()
    loss = Loss(site, redis_client, run)

    def begins(due: str) -> bool:
        if due == step and not loss.struck:
            loss.strike_before(call, monkeypatch)
        return False

    result = site.work(run, until=begins)
    assert loss.struck
    assert result is not None
    assert (result.status, result.warnings) == ("succeeded", ()), run_in_short(result)
    assert sorted(row.vdi or "" for row in result.disks) == sorted(site.disks)
    for row in result.disks:
        assert row.point is not None
        assert site.restored(row.point, row.vdi or "") == site.pool.content(row.vdi or "")


def test_a_late_finish_makes_no_point_without_a_disk_that_is_tried_again(
    make_site: Callable[[PoolSpec], Site], redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One disk had failed before the loss and streams again; the other is complete: its packs are there."""
    site = make_site(SPEC)
    [_, data] = site.disks
    run = site.submit()
    loss = Loss(site, redis_client, run, then=("plan-run", "plan-vm"))

    def begins(due: str) -> bool:
        if due == "finish-vm" and not loss.struck:
            loss.strike_before("vm_disks", monkeypatch)
        return False

    site.work(run, stop=lambda: len(site.ledger.progress(run).disks) == 2)
    while {disk.state for disk in site.ledger.progress(run).disks} != {"complete", "failed"}:
        site.ledger.node_alive("node", 4)
        site.ledger.sweep()
        site.count_hosts()
        for grant in site.ledger.admit():
            if grant.disk == data:
                assert site.ledger.claim(grant, "node/1")
                site.ledger.release(grant, Outcome.FATAL, "given up", "node/1")
            else:
                run_stream(site.stream_context, grant)
    result = site.work(run, until=begins)
    assert loss.struck
    assert result is not None
    assert (result.status, result.warnings) == ("succeeded", ()), run_in_short(result)
    [point] = site.repository.points()
    assert {disk.vdi for disk in point.disks} == set(site.disks)
