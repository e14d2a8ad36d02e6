"""What must hold after each step of a course, and at its end; asked of the pool and the bucket directly.

after a step    what was destroyed in it was no person's, was not being read, was of no other run that is
                at work, and was not the base of a disk's next backup
at the end      one look for orphans leaves of each disk its base, and nothing else of ours
                every restore point's bytes are its snapshot's, also those of one more run: an increment,
                unless two runs crossed
"""

from __future__ import annotations

from collections.abc import Sequence

from scheduler.pool_objects.garbage_collector import clean_pool
from tests.simulation.pool_records import Content
from tests.simulation.run import Run, block_of
from tests.simulation.world import World
from workers.repository import DiskPoint

PROOF = {"VM": 24, "VDI": 14, "VBD": 14, "data": 14}
"""Steps of one actor, at most, from the first question of a proof to the effect of the call."""


class Violation(AssertionError):
    pass


class Judge:
    """`good_ends`: those of earlier courses of the same code. Most courses come to one of a few ends, and one
    that was found good is not looked at again."""

    def __init__(self, world: World, runs: Sequence[Run], good_ends: set[str]) -> None:
        self._good_ends = good_ends
        self._world = world
        self._runs = {run.name: run for run in runs}
        self._seen = 0

    def look(self) -> None:
        destroyed = self._world.pool.destroyed
        for kind, uuid, made_by, by in destroyed[self._seen :]:
            self._judge(kind, uuid, made_by, by)
        self._seen = len(destroyed)

    def _judge(self, kind: str, uuid: str, made_by: str, by: str) -> None:
        what = f"{by} destroyed {kind} {uuid} of {made_by}"
        if made_by == "person" and by != "person" and not self._too_late_to_see(kind, uuid):
            raise Violation(what)
        if any(uuid in run.reading for run in self._runs.values()):
            raise Violation(f"{what}, which is to be read")
        if made_by != by and self._world.unwatched.run_is_open(made_by):
            raise Violation(f"{what}, which is at work")
        if kind == "VDI" and uuid in self._bases():
            raise Violation(f"{what}, the base of its disk's next backup")

    def _too_late_to_see(self, kind: str, uuid: str) -> bool:
        """A person took it after whoever destroyed it had begun to prove that nobody has it: XAPI has no call
        that proves and destroys."""
        taken = self._world.taken.get(uuid)
        if taken is None:
            return False
        trace = self._world.turns.trace
        return sum(step.actor == trace[-1].actor for step in trace[taken:]) <= PROOF[kind]

    def _bases(self) -> set[str]:
        """Snapshots (uuids) that the next backup will ask for the changes since."""
        return {disk.snapshot for disk in self._newest_points()}

    def _newest_points(self) -> list[DiskPoint]:
        world = self._world
        uuids = [disk.uuid for disk in world.pool.disks_of(world.vm)]
        found = [world.unwatched.latest_disk(world.vm.uuid, uuid) for uuid in uuids]
        return [disk for disk in found if disk is not None]

    def _crossed(self) -> bool:
        """Whether of two runs the later one, by name, took its snapshot first. Its snapshot is the base then,
        and the other's lies between it and the disk; on storage in files the log ends when that one goes."""
        times = [point.time for point in self._world.unwatched.points()]
        return times != sorted(times)

    def end(self) -> None:
        for run in self._runs.values():
            if run.failed:
                raise Violation(f"{run.name}: {run.failed}")
        end = repr((sorted(self._world.pool.state().items()), sorted(self._world.objects.objects)))
        if end not in self._good_ends:
            self._end()
            self._good_ends.add(end)

    def _end(self) -> None:
        world = self._world
        world.taken.clear()  # who proves now sees it all
        stayed = [each for each in clean_pool(world.context("orphans"), "lab", lambda: False) if each.error]
        self.look()
        theirs = {vbd.vdi for vbd in world.pool.vbds.values() if vbd.made_by == "person"}
        ours = [vdi for vdi in world.pool.snapshots() if vdi.made_by != "person" and vdi.ref not in theirs]
        unused = {vdi.uuid for vdi in ours if vdi.has_data or vdi.uuid not in self._bases()}
        vms = {vm.name for vm in world.pool.vms.values() if vm.made_by != "person"}
        if unused or vms:
            raise Violation(f"left on the pool: {unused or ''} {vms or ''}, and kept: {stayed}")
        plugged = [vbd.vdi for vbd in world.pool.vbds.values() if vbd.vm == world.pool.dom0().ref]
        if left := [vdi for vdi in plugged if world.pool.vdis[vdi].made_by != "person"]:
            raise Violation(f"left plugged in: {left}, and kept: {stayed}")
        following = Run(world, "20260102T000000Z-next00")
        self._runs[following.name] = following
        bases, crossed = self._bases(), self._crossed()
        following()
        self.look()
        told = len(bases) == len(following.modes) and not crossed
        if told and set(following.modes.values()) != {"incremental"}:
            raise Violation(f"the next run is no increment: {following.modes}")
        for point in world.unwatched.points(world.vm.uuid):
            for disk in point.disks:
                if world.restored(disk) != _bytes(world.pool.contents[disk.snapshot]):
                    raise Violation(f"what {point.run} stored of {disk.name} is not its snapshot's content")


def _bytes(content: Content) -> bytes:
    return b"".join(block_of(value) for value in content)
