"""A person at the pool while runs are at work: takes over what is ours, and says so as people do."""

from __future__ import annotations

from scheduler.pool_objects.ownership import TAG_REPOSITORY
from scheduler.pool_objects.snapshots import snapshot_name
from tests.simulation.pool_records import Vdi
from tests.simulation.world import World


def act(world: World) -> None:
    """Snapshots the VM, looks into a disk snapshot of ours, and keeps one more and a VM snapshot."""
    pool, point = world.pool, world.turns.point
    with world.context("person").sessions.borrow("lab") as session:
        session.call("VM.snapshot", world.vm.ref, "before the upgrade")
        point("attaches a snapshot").writes = ("VDI:",)
        ours = [vdi for vdi in _free(world) if vdi.has_data]
        if ours:
            vbd = pool.attach(pool.vm_named("web"), ours[0], "5", "person")
            world.person_takes(vbd.uuid)
            point("looks into it")
            if vbd.ref in pool.vbds:
                session.call("VBD.destroy", vbd.ref)
        point("removes the tag of a snapshot to keep it").writes = ("VDI:",)
        for vdi in _free(world)[-1:]:
            del vdi.other_config[TAG_REPOSITORY]
            vdi.made_by = "person"
            world.person_takes(vdi.uuid)
        point("renames a VM snapshot to keep it").writes = ("VM:", "VDI:")
        for vm in pool.vms.values():
            if vm.name.startswith(snapshot_name("")):
                vm.name, vm.made_by = "as it was", "person"
                world.person_takes(vm.uuid)
                for vbd in pool.vbds.values():
                    if vbd.vm == vm.ref:
                        vbd.made_by = "person"
                        world.person_takes(vbd.uuid)
                break


def _free(world: World) -> list[Vdi]:
    """Disk snapshots of ours that no VM snapshot holds."""
    pool = world.pool
    held = {vbd.vdi for vbd in pool.vbds.values() if not pool.vms[vbd.vm].control_domain}
    return [
        vdi
        for vdi in pool.snapshots()
        if vdi.made_by != "person" and vdi.ref not in held and TAG_REPOSITORY in vdi.other_config
    ]
