"""A run backs up VMs: what cannot or must not be backed up of one is said, and keeps nothing else from it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from infra.simulator import DiskSpec, PoolSpec, Timing, VmSpec
from scheduler.policies.policy import Selector
from scheduler.policies.requests import RunRequest
from scheduler.runs.submit import submit_run
from scheduler.runs.values import ResultRow, RunResult
from tests.failure_report import run_in_short
from tests.unit.scheduler.conftest import Site
from workers.xenapi import Session

MiB = 1 << 20
TIMING = Timing(login_failure_delay=0.1, data_destroy_wait=0.2, slot_release_delay=0.05)
MakeSite = Callable[[PoolSpec], Site]


def pool_of(*vms: VmSpec, **more: Any) -> PoolSpec:
    return PoolSpec(hosts=1, vms=vms, timing=TIMING, **more)


def night(site: Site, **request: Any) -> RunResult:
    everything = RunRequest("lab", include=Selector(names=("*",)), **request)
    result = site.work(submit_run(site.ledger, everything))
    assert result is not None
    return result


def by_name(result: RunResult) -> dict[str, ResultRow]:
    return {str(row.name): row for row in result.disks}


def test_drives_that_cannot_be_backed_up_are_skipped_with_a_reason(make_site: MakeSite) -> None:
    odd = (
        DiskSpec(MiB, "cluster", sharable=True),
        DiskSpec(MiB, "kiosk", on_boot="reset"),
        DiskSpec(MiB, "foreign", managed=False),
        DiskSpec(MiB, "swap"),
        DiskSpec(MiB, "scratch"),
    )
    site = make_site(pool_of(VmSpec("web", (DiskSpec(2 * MiB, "root"), *odd), cd_drive=True)))
    root, *_, scratch = site.disks
    with Session.login("lab", site.settings.pool("lab")) as session:
        session.call("VDI.add_tags", session.call("VDI.get_by_uuid", scratch), "cbtfleet:exclude")
    result = night(site, exclude_disks=Selector(names=("swap*",)))
    assert result.status == "succeeded", run_in_short(result)
    rows = by_name(result)
    assert {name: row.reason for name, row in rows.items() if row.mode is None} == {
        "cluster": "skipped: several VMs may write to it (sharable = true), so it cannot be snapshotted",
        "kiosk": "skipped: it is reset at every boot (on_boot = reset), so it cannot be snapshotted",
        "foreign": "skipped: XAPI does not manage this disk (managed = false)",
        "swap": "skipped: excluded by the policy, by its name (swap*)",
        "scratch": "skipped: excluded by its tag cbtfleet:exclude",
        "drive 6": "skipped: an empty CD drive",
    }
    assert {row.error for row in rows.values()} == {None}
    [point] = site.repository.points()
    assert [disk.vdi for disk in point.disks] == [root]
    assert site.restored(point.id, root) == site.pool.content(root)
    assert {each["snapshot_of"] for each in site.pool.leftovers()["vdi_snapshots"]} == {root}


def test_a_disk_of_two_vms_is_backed_up_once(make_site: MakeSite) -> None:
    site = make_site(
        pool_of(
            VmSpec("db", (DiskSpec(MiB, "shared"),), running=False),
            VmSpec("web", (DiskSpec(MiB, "own"),), running=False),
        )
    )
    shared, own = site.disks
    with Session.login("lab", site.settings.pool("lab")) as session:
        for vm, place in (("web", "5"), ("db", "6")):
            [ref] = session.call("VM.get_by_name_label", vm)
            vdi = session.call("VDI.get_by_uuid", shared)
            session.call("VBD.create", {"VM": ref, "VDI": vdi, "userdevice": place, "type": "Disk"})
    result = night(site)
    assert result.status == "succeeded", run_in_short(result)
    rows = {(row.vm, row.vdi, row.mode): row.reason for row in result.disks}
    assert set(rows) == {
        ("db", shared, "full"),
        ("db", shared, None),
        ("web", own, "full"),
        ("web", shared, None),
    }
    assert rows["db", shared, None] == "skipped: it is attached twice, and backed up as drive 0"
    assert rows["web", shared, None] == 'skipped: VM "db" has it too, and it is backed up with that'
    assert {point.vm: [disk.vdi for disk in point.disks] for point in site.repository.points()} == {
        "db": [shared],
        "web": [own],
    }
    kept = site.pool.leftovers()["vdi_snapshots"]
    assert sorted(each["snapshot_of"] for each in kept) == sorted([shared, own])


@pytest.mark.parametrize(
    ("policy", "status", "mode"),
    [("full", "succeeded", "full"), ("skip", "succeeded", None), ("fail", "partial", None)],
)
def test_a_disk_without_tracking_is_the_policys_choice(
    make_site: MakeSite, policy: str, status: str, mode: str | None
) -> None:
    site = make_site(pool_of(VmSpec("web", (DiskSpec(MiB, "root"), DiskSpec(MiB, "raw", raw=True)))))
    result = night(site, without_tracking=policy)
    row = by_name(result)["raw"]
    assert (result.status, row.mode) == (status, mode)
    why = "a disk of this kind (raw) cannot track changed blocks; copy it to a VHD disk"
    said = {"full": why, "skip": f"skipped: {why}", "fail": f'VM "web", disk raw: {why}'}[policy]
    assert f"{said} (SR_BACKEND_FAILURE_66)" in (row.reason, row.error)
    [point] = site.repository.points()
    assert [disk.name for disk in point.disks] == ["root", "raw"] if mode else ["root"]


def test_what_keeps_a_disk_from_being_tracked_is_named_with_what_to_do(make_site: MakeSite) -> None:
    said = {
        "LICENCE_RESTRICTION": ("full", "apply one that does"),
        "VDI_INCOMPATIBLE_TYPE": ("full", "only disks of type user or system"),
        "VDI_ON_BOOT_MODE_INCOMPATIBLE_WITH_OPERATION": ("full", "set its on_boot to persist"),
        "SR_OPERATION_NOT_SUPPORTED": ("full", "move the disk to one that can"),
        "SR_BACKEND_FAILURE_457": ("full", "/var/log/SMlog"),
        "SR_NOT_ATTACHED": (
            None,
            'plug its PBDs in (SR_NOT_ATTACHED); it is on storage "lab shared storage"',
        ),
        "SR_HAS_NO_PBDS": (None, "create and plug its PBDs"),
    }
    site = make_site(pool_of(VmSpec("web", tuple(DiskSpec(MiB, code) for code in said))))
    for vdi, code in zip(site.disks, said, strict=True):
        site.pool.add_fault(xapi="VDI.enable_cbt", object=vdi, failure=[code])
    result = night(site)
    assert result.status == "partial"
    for code, row in by_name(result).items():
        mode, words = said[code]
        assert row.mode == mode
        assert words in (row.reason or row.error)
        assert code in (row.reason or row.error)


def test_storage_that_is_not_plugged_in_fails_its_own_disks_alone(make_site: MakeSite) -> None:
    disks = (DiskSpec(MiB, "root", cbt=True), DiskSpec(MiB, "local", cbt=True, sr="local"))
    site = make_site(pool_of(VmSpec("web", disks, running=False), local_srs=True))
    with Session.login("lab", site.settings.pool("lab")) as session:
        for ref, pbd in session.call("PBD.get_all_records").items():
            if not session.call("SR.get_record", pbd["SR"])["shared"]:
                session.call("PBD.unplug", ref)
    result = night(site)
    rows = by_name(result)
    assert (result.status, rows["root"].error) == ("partial", None), run_in_short(result)
    assert "(SR_NO_PBDS: <ref>); it is on storage" in rows["local"].error
    assert "is not plugged in" in rows["local"].error


def test_of_a_vm_whose_only_real_disk_fails_the_skipped_ones_are_no_success(make_site: MakeSite) -> None:
    site = make_site(pool_of(VmSpec("web", (DiskSpec(MiB, "root"),), cd_drive=True)))
    site.pool.add_fault(xapi="VDI.enable_cbt", failure=["SR_NOT_ATTACHED"])
    assert night(site).status == "failed"
    site.pool.clear_faults()
    one = replace(RunRequest("lab", ("web",)), exclude_disks=Selector(uuids=(site.disks[0],)))
    result = site.work(submit_run(site.ledger, one))
    assert result is not None
    assert (result.status, [row.mode for row in result.disks]) == ("succeeded", [None, None])
