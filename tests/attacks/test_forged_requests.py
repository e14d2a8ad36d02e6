"""Who can write to Redis asks for runs in a policy's name, so that its `keep` forgets good points."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from infra.simulator import DiskSpec, PoolSpec, Timing, VmSpec
from scheduler.policies.requests import request_for_vms
from scheduler.runs.submit import submit_run
from tests.failure_report import run_in_short
from tests.unit.scheduler.conftest import Site

SPEC = PoolSpec(
    hosts=1,
    vms=(VmSpec("web", (DiskSpec(1 << 20, "root"),)),),
    timing=Timing(login_failure_delay=0.1, data_destroy_wait=0.2, slot_release_delay=0.02),
)


def test_a_run_that_nobody_signed_counts_as_made_by_hand(make_site: Callable[..., Site]) -> None:
    site = make_site(SPEC, encrypted=True)
    request = replace(request_for_vms(site.settings, "lab", ["web"]), policy="nightly")
    for sign, policy in ((site.repository.sign_order, "nightly"), (None, None), (lambda order: b"x", None)):
        result = site.work(submit_run(site.ledger, request, sign))
        assert result is not None
        assert (result.status, result.policy) == ("succeeded", policy), run_in_short(result)
        [point] = [each for each in site.repository.points() if each.run == result.run]
        assert point.policy == policy


def test_without_encryption_nobody_can_be_told_from_others(make_site: Callable[..., Site]) -> None:
    site = make_site(SPEC)
    request = replace(request_for_vms(site.settings, "lab", ["web"]), policy="nightly")
    result = site.work(submit_run(site.ledger, request))
    assert result is not None
    assert result.policy == "nightly"
