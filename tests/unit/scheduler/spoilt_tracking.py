"""What happens to the disks of a simulated pool between two nights: each for a VM that has one disk."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from infra.simulator import DiskSpec, VmSpec
from tests.unit.scheduler.conftest import Site
from workers.repository import point_id
from workers.xenapi import Session

MiB = 1 << 20
Spoil = Callable[[Site, str], None]
"""Of the site and the VM's name."""


def call(site: Site, method: str, *arguments: Any) -> Any:
    with Session.login("lab", site.settings.pool("lab")) as session:
        return session.call(method, *arguments)


def vm_ref(site: Site, vm: str) -> str:
    [ref] = call(site, "VM.get_by_name_label", vm)
    return str(ref)


def disk_of(site: Site, vm: str) -> str:
    [uuid] = [disk["vdi"] for each in site.pool.vms() if each["name"] == vm for disk in each["disks"]]
    return str(uuid)


def disk_ref(site: Site, vm: str) -> str:
    return str(call(site, "VDI.get_by_uuid", disk_of(site, vm)))


def base_of(site: Site, vm: str) -> str:
    live = disk_of(site, vm)
    [base] = [each for each in site.pool.leftovers()["vdi_snapshots"] if each["snapshot_of"] == live]
    return str(base["uuid"])


def nothing(site: Site, vm: str) -> None:
    """It is written to, as every night."""
    site.pool.write_random(disk_of(site, vm), blocks=2, seed=1)


def it_is_new(site: Site, vm: str) -> None:
    site.pool.add_vm(VmSpec(vm, (DiskSpec(MiB, cbt=True),)))


def tracking_goes_off(site: Site, vm: str) -> None:
    site.pool.disable_cbt(disk_of(site, vm))


def the_log_does_not_grow_with_the_disk(site: Site, vm: str) -> None:
    site.pool.add_fault(sm="cbt_resize", vdi=disk_of(site, vm))
    it_grows(site, vm)


def it_grows(site: Site, vm: str) -> None:
    size = int(call(site, "VDI.get_record", disk_ref(site, vm))["virtual_size"])
    site.pool.resize(disk_of(site, vm), 2 * size)


def its_host_dies(site: Site, vm: str) -> None:
    nothing(site, vm)
    host = call(site, "VM.get_record", vm_ref(site, vm))["resident_on"]
    site.pool.set_host(call(site, "host.get_record", host)["uuid"], "down")


def its_host_dies_and_it_starts_elsewhere(site: Site, vm: str) -> None:
    its_host_dies(site, vm)
    call(site, "VM.start_on", vm_ref(site, vm), site.pool.hosts[0].ref, False, False)


def it_is_shut_down(site: Site, vm: str) -> None:
    nothing(site, vm)
    call(site, "VM.clean_shutdown", vm_ref(site, vm))


def its_point_is_damaged(site: Site, vm: str) -> None:
    uuid = call(site, "VM.get_record", vm_ref(site, vm))["uuid"]
    [path] = [each for each in (site.folder / "store" / "points" / uuid).iterdir() if each.is_file()]
    path.write_bytes(path.read_bytes()[:-1] + b"x")


def its_base_goes(site: Site, vm: str) -> None:
    call(site, "VDI.destroy", call(site, "VDI.get_by_uuid", base_of(site, vm)))


def a_middle_snapshot_goes_without_its_bits(site: Site, vm: str) -> None:
    snapshot = call(site, "VDI.snapshot", disk_ref(site, vm))
    call(site, "VDI.data_destroy", snapshot)
    call(site, "VDI.destroy", snapshot)


def it_moves_to_other_storage(site: Site, vm: str) -> None:
    """The local storage of the VM's host."""
    host = call(site, "VM.get_record", vm_ref(site, vm))["resident_on"]
    plugged = {pbd["SR"] for pbd in call(site, "PBD.get_all_records").values() if pbd["host"] == host}
    [local] = [
        ref for ref, sr in call(site, "SR.get_all_records").items() if ref in plugged and not sr["shared"]
    ]
    call(site, "VDI.disable_cbt", disk_ref(site, vm))
    call(site, "VDI.pool_migrate", disk_ref(site, vm), local, {})


def it_is_reverted(site: Site, vm: str) -> None:
    call(site, "VM.revert", call(site, "VM.snapshot", vm_ref(site, vm), "before the upgrade", []))


def a_smaller_disk_takes_its_drive(site: Site, vm: str) -> None:
    call(site, "VM.clean_shutdown", vm_ref(site, vm))
    record = call(site, "VDI.get_record", disk_ref(site, vm))
    call(site, "VDI.destroy", disk_ref(site, vm))
    fields = ("SR", "type", "sharable", "read_only", "name_label")
    size = str(int(record["virtual_size"]) // 2)
    values = {field: record[field] for field in fields} | {"other_config": {}, "virtual_size": size}
    drive = {"VM": vm_ref(site, vm), "VDI": call(site, "VDI.create", values), "userdevice": "0"}
    call(site, "VBD.create", {**drive, "type": "Disk"})


def its_point_says(site: Site, vm: str, **values: Any) -> None:
    """A later restore point, with other facts of the disk than a pool of ours can come to."""
    uuid = call(site, "VM.get_record", vm_ref(site, vm))["uuid"]
    point = site.repository.newest_point(uuid)
    assert point is not None
    run = f"{point.run}-again"
    disks = tuple(replace(disk, **values) for disk in point.disks)
    later = replace(point, id=point_id(run, uuid), run=run, disks=disks, metadata=None)
    site.repository.commit_point(later)


def it_was_larger(site: Site, vm: str) -> None:
    its_point_says(site, vm, virtual_size=4 * MiB)


def its_base_is_on_other_storage(site: Site, vm: str) -> None:
    its_point_says(site, vm, snapshot=base_of(site, "on local storage"))


def its_base_was_not_tracked(site: Site, vm: str) -> None:
    call(site, "VDI.disable_cbt", disk_ref(site, vm))
    snapshot = call(site, "VDI.snapshot", disk_ref(site, vm))
    call(site, "VDI.enable_cbt", disk_ref(site, vm))
    its_point_says(site, vm, snapshot=call(site, "VDI.get_record", snapshot)["uuid"])


def tracking_is_lost_at(snapshots: int) -> Spoil:
    def spoil(site: Site, vm: str) -> None:
        site.pool.add_fault(sm="cbt_snapshot", vdi=disk_of(site, vm), count=snapshots)

    return spoil


def listing_changes_fails(code: str) -> Spoil:
    def spoil(site: Site, vm: str) -> None:
        site.pool.add_fault(
            xapi="VDI.list_changed_blocks", object=base_of(site, vm), failure=[code, "", "why", ""]
        )

    return spoil


def switching_on_fails(code: str) -> Spoil:
    def spoil(site: Site, vm: str) -> None:
        site.pool.disable_cbt(disk_of(site, vm))
        site.pool.add_fault(xapi="VDI.enable_cbt", object=disk_of(site, vm), failure=[code])

    return spoil
