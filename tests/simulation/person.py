"""A person at the pool, while runs are at work."""

from __future__ import annotations

from tests.simulation.world import World


def act(world: World) -> None:
    """Snapshots the VM, attaches a disk snapshot of ours to another VM, and gives it back."""
    pool = world.pool
    with world.context("person").sessions.borrow("lab") as session:
        session.call("VM.snapshot", world.vm.ref, "before the upgrade")
        world.turns.point("person: attaches a snapshot")
        ours = [vdi for vdi in pool.snapshots() if vdi.made_by != "person" and vdi.has_data]
        if ours:
            vbd = pool.attach(pool.vm_named("web"), ours[0], "5", "person")
            world.turns.point("person: gives it back")
            if vbd.ref in pool.vbds:
                session.call("VBD.destroy", vbd.ref)
