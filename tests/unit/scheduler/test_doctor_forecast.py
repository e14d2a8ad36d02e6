"""What the doctor says of the next run, held against what that run then does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from infra.simulator import DiskSpec, PoolSpec, Timing, VmSpec
from scheduler.checks.check import Check
from scheduler.checks.doctor import examine
from scheduler.runs.values import RunResult
from tests.unit.scheduler.conftest import Site
from workers.settings import Settings
from workers.xenapi import Session

POLICY = {"nightly": {"pool": "lab", "include": {"names": ["*"]}}}
SPEC = PoolSpec(
    hosts=1,
    second_network=False,
    vms=(VmSpec("web", tuple(DiskSpec(1 << 20, name=name, cbt=name != "c") for name in "abc")),),
    timing=Timing(slot_release_delay=0.01),
)


def forecast(site: Site) -> tuple[list[Check], dict[str, int]]:
    """What is said of the policy, and how many disks of each mode it expects."""
    settings = Settings.model_validate(
        site.settings.model_dump() | {"policies": POLICY, "repository": site.settings.repository}
    )
    checks = [
        check
        for check in examine(settings, Path("cbtfleet.toml"), all_of_them=True)
        if check.subject == "policy nightly"
    ]
    [said] = [check.said for check in checks if check.name == "policy.tonight"]
    words = said.removeprefix("the next run: ").replace(",", "").split()
    return checks, {words[1]: int(words[0]), words[3]: int(words[2])}


def done(result: RunResult) -> dict[str, int]:
    modes = [row.mode for row in result.disks]
    assert result.status == "succeeded"
    return {mode: modes.count(mode) for mode in ("incremental", "full")}


def test_the_next_run_does_what_the_doctor_said(make_site: Callable[[PoolSpec], Site]) -> None:
    site = make_site(SPEC)
    checks, expected = forecast(site)
    assert expected == {"incremental": 0, "full": 3}
    assert {check.state for check in checks} == {"ok"}
    assert done(site.night()) == expected

    _, expected = forecast(site)
    assert expected == {"incremental": 3, "full": 0}
    assert "message.get_since" not in site.pool.log()["calls"], "no base is in doubt"
    assert done(site.night()) == expected

    disks = {disk["name"]: disk["vdi"] for vm in site.pool.vms() for disk in vm["disks"]}
    with Session.login("lab", site.settings.pool("lab")) as session:
        live = session.call("VDI.get_by_uuid", disks["a"])
        for base in session.call("VDI.get_snapshots", live):
            session.call("VDI.destroy", base)
    site.pool.disable_cbt(disks["b"])
    before = site.pool.log()["calls"]
    checks, expected = forecast(site)
    assert expected == {"incremental": 1, "full": 2}
    named = {check.about: check.state for check in checks if check.name == "policy.full.disk"}
    assert named == {disks["a"]: "warning", disks["b"]: "ok"}
    assert site.pool.log()["calls"]["message.get_since"] == 1, "for all disks together"
    changing = {
        call
        for call, times in site.pool.log()["calls"].items()
        if times != before.get(call) and ".get_" not in call
    }
    assert changing <= {"session.login_with_password", "session.logout"}
    assert done(site.night()) == expected
