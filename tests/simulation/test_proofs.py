"""The proofs of destruction.py that no course needs, as its callers have looked before: asked alone."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from scheduler.pool_objects.destruction import Destruction, NotProved
from scheduler.pool_objects.fate import SnapshotState, judge
from scheduler.pool_objects.ownership import OwnershipTag, tag_of
from tests.repository_machine import REPOSITORY_ID
from tests.simulation.pool_records import Vdi
from tests.simulation.run import Run
from tests.simulation.world import World


class Stage:
    """A pool on which a disk has its base, and a run has planned and read; it is at work."""

    def __init__(self) -> None:
        self.world = World(1)
        Run(self.world, "first")()
        self.run = Run(self.world, "run", refusals=0)
        self.run.plan()
        self.run.stream()
        with self.world.context("other").sessions.borrow("lab") as session:
            self.session = session
        self.destruction = Destruction(self.session, self.world.repository)
        self.base, self.snapshot = sorted(self.world.pool.snapshots(), key=lambda vdi: vdi.time)
        self.vm_snapshot = next(vm for vm in self.world.pool.vms.values() if vm.is_a_snapshot)
        self.vbd = next(vbd for vbd in self.world.pool.vbds.values() if vbd.vm == self.world.pool.dom0().ref)

    def tag(self, vdi: Vdi) -> OwnershipTag:
        tag = tag_of(self.session.call("VDI.get_record", vdi.ref), REPOSITORY_ID)
        assert tag is not None
        return tag

    def fate(self, vdi: Vdi) -> str | None:
        fate = self.destruction.disk_snapshot(vdi.ref, self.tag(vdi), until=0)
        return fate.why if fate is not None else None

    def detach(self, vbd: str, vdi: Vdi) -> None:
        self.destruction.detach(vbd, vdi.ref, self.tag(vdi))


@pytest.fixture
def stage() -> Iterator[Stage]:
    world = Stage()
    with world.world.time():
        yield world


def test_a_vm_snapshot_of_a_run_at_work_stays(stage: Stage) -> None:
    with pytest.raises(NotProved, match="goes on"):
        stage.destruction.vm_snapshot(stage.vm_snapshot.ref, "run", lambda each: True)
    assert stage.vm_snapshot.ref in stage.world.pool.vms
    stage.run.end()
    assert stage.destruction.vm_snapshot(stage.vm_snapshot.ref, "run", lambda each: True)
    assert stage.vm_snapshot.ref not in stage.world.pool.vms


def test_a_host_keeps_a_disk_that_a_run_at_work_reads(stage: Stage) -> None:
    with pytest.raises(NotProved, match="goes on"):
        stage.detach(stage.vbd.ref, stage.snapshot)
    stage.run.end()
    stage.detach(stage.vbd.ref, stage.snapshot)
    assert stage.vbd.ref not in stage.world.pool.vbds


def test_only_a_control_domain_loses_a_disk(stage: Stage) -> None:
    stage.run.end()
    web = stage.world.pool.vm_named("web")
    vbd = stage.world.pool.attach(web, stage.snapshot, "5", "person", plugged=True)
    with pytest.raises(NotProved, match="control domain"):
        stage.detach(vbd.ref, stage.snapshot)
    assert vbd.attached


def test_only_the_disk_that_was_found_is_unplugged(stage: Stage) -> None:
    stage.run.end()
    with pytest.raises(NotProved, match="control domain"):
        stage.detach(stage.vbd.ref, stage.base)
    assert stage.vbd.attached


def test_what_is_not_ours_is_not_unplugged(stage: Stage) -> None:
    stage.run.end()
    tag = stage.tag(stage.snapshot)
    stage.snapshot.other_config.clear()
    with pytest.raises(NotProved, match="does not carry our tag"):
        stage.destruction.detach(stage.vbd.ref, stage.snapshot.ref, tag)
    assert stage.vbd.attached


def test_while_the_newest_restore_point_cannot_be_read_all_stays(stage: Stage) -> None:
    objects = stage.world.objects.objects
    point = next(key for key in objects if key.startswith("points/"))
    objects[point] = objects[point][:-20] + bytes(20)
    assert stage.fate(stage.base) == "the newest restore point of its disk cannot be read"
    assert stage.base.ref in stage.world.pool.vdis


def test_the_base_of_a_disk_that_is_gone_goes(stage: Stage) -> None:
    live = stage.world.pool.disks_of(stage.world.vm)[0]
    del stage.world.pool.vdis[live.ref]
    assert stage.fate(stage.base) == "its disk is no longer on the pool"
    assert stage.base.ref not in stage.world.pool.vdis


def test_metadata_stay_while_nothing_newer_is_there(stage: Stage) -> None:
    """The newest restore point's snapshot was destroyed by somebody: an older one stays."""
    stage.world.pool.do("person", "VDI.destroy", stage.base.ref)
    stage.run.end()
    stage.destruction.vm_snapshot(stage.vm_snapshot.ref, "run", lambda each: True)
    stage.snapshot.type = "cbt_metadata"
    assert stage.fate(stage.snapshot) == "nothing newer is there"


@pytest.mark.parametrize(
    ("state", "newest", "there", "action"),
    [
        (SnapshotState("s", has_data=True, tracked=True), "s", False, "purge"),
        (SnapshotState("s", has_data=True, tracked=False), "s", False, "destroy"),
        (SnapshotState("s", has_data=False, tracked=True), "s", False, "keep"),
        (SnapshotState("s", has_data=True, tracked=True), "t", True, "destroy"),
        (SnapshotState("s", has_data=True, tracked=True), None, False, "destroy"),
        (SnapshotState("s", has_data=False, tracked=True), "t", True, "destroy"),
        (SnapshotState("s", has_data=False, tracked=True), "t", False, "keep"),
        (SnapshotState("s", has_data=False, tracked=True), None, False, "keep"),
        (SnapshotState("s", has_data=False, tracked=True, disk_is_gone=True), "s", False, "destroy"),
    ],
)
def test_fates(state: SnapshotState, newest: str | None, there: bool, action: str) -> None:
    assert judge(state, run="run", going=False, newest=newest, newest_is_there=there).action == action
    assert judge(state, run="run", going=True, newest=newest, newest_is_there=there).action == "keep"
