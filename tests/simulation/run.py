"""A run of one VM, from its record to its end: planning in the order of scheduler/planning, reading and
storing as a worker does, and scheduler/finishing itself."""

from __future__ import annotations

import time
from contextlib import suppress

from scheduler.finishing.steps import finish_vm
from scheduler.planning.changes import changes_since
from scheduler.policies.requests import RunRequest
from scheduler.pool_objects.destruction import GRACE, Destruction
from scheduler.pool_objects.snapshots import DiskSnapshot, VmSnapshot, take_vm_snapshot
from scheduler.runs.facts import keep_planned_vm, open_run, planned_vm
from scheduler.runs.values import OpenRun, PlannedDisk, PlannedVm, RunResult, VmFacts
from tests.repository_machine import PLAIN
from tests.simulation.ledger import RunValues
from tests.simulation.pool_records import Content, Vdi
from tests.simulation.world import PoolSession, World
from workers.extents import BLOCK_SIZE, Plan
from workers.fleet import DiskFacts, DiskProgress
from workers.repository import ObjectExists, PackWriter
from workers.xenapi import XapiFailure

REQUEST = RunRequest("lab", vms=("db",))
STARTED = "2026-01-01T00:00:00Z"


class Run:
    """`cancelled`: a person cancels it before it reads. `unread`: so many of its disks fail.
    `refusals`: how often a host says that a disk is in use after it was read."""

    def __init__(
        self, world: World, name: str, *, cancelled: bool = False, unread: int = 0, refusals: int = 1
    ) -> None:
        self.name = name
        self.reading: set[str] = set()
        """Disk snapshots (uuids) that are being read, or will be: the judge sees that nobody takes them."""
        self.failed: list[str] = []
        """Disks that were not backed up although nobody meant it."""
        self.modes: dict[str, str] = {}
        """By disk."""
        self._cancelled = cancelled
        self._unread = unread
        self._refusals = refusals
        self._world = world
        self._context = world.context(name)

    def __call__(self) -> None:
        self.plan()
        self.stream()
        self.to_its_end()

    def to_its_end(self) -> None:
        finish_vm(self._context, self.name, self._world.vm.uuid)
        self.end()

    def plan(self) -> None:
        world, repository = self._world, self._world.repository
        open_run(repository, self.name, OpenRun(REQUEST, STARTED, {world.vm.uuid: "db"}))
        facts = VmFacts("db")
        disks: list[PlannedDisk] = []
        with self._context.sessions.borrow("lab") as session:
            snapshot = self._take(session)
            facts = VmFacts("db", snapshot=snapshot.uuid, time=snapshot.time)
            for disk in snapshot.disks:
                if disk.live_ref:
                    disks += self._plan_disk(session, disk)
        keep_planned_vm(repository, self.name, world.vm.uuid, PlannedVm(facts, tuple(disks)))
        world.ledger.values[self.name] = RunValues(vms={world.vm.uuid: facts.write()})

    def _take(self, session: PoolSession) -> VmSnapshot:
        world = self._world

        def discard(ref: str) -> None:
            destruction = Destruction(session, world.repository, own_run=self.name)
            destruction.vm_snapshot_with_disks(ref, self.name, lambda each: True, time.monotonic() + GRACE)

        snapshot = take_vm_snapshot(
            session, self.name, world.vm.ref, [], world.repository.repository_id, discard
        )
        self.reading |= {disk.uuid for disk in snapshot.disks}
        return snapshot

    def _plan_disk(self, session: PoolSession, disk: DiskSnapshot) -> list[PlannedDisk]:
        repository = self._world.repository
        try:
            last = repository.latest_disk(self._world.vm.uuid, disk.live_uuid)
            changes = changes_since(session, disk, last, None)
        except XapiFailure as failure:
            self.failed.append(f"{disk.name}: {failure}")
            self.reading.discard(disk.uuid)
            return []
        repository.keep_plan(self.name, disk.live_uuid, changes.plan)
        self.modes[disk.live_uuid] = changes.mode
        facts = DiskFacts(
            vm_name="db",
            name=disk.name,
            userdevice=disk.userdevice,
            sr=disk.sr_uuid,
            mode=changes.mode,
            reason=str(changes.reason) if changes.reason is not None else None,
            changed_bytes=changes.plan.changed_bytes,
            incremental_to=changes.parent.snapshot if changes.parent else None,
        )
        return [PlannedDisk(disk.live_uuid, disk.uuid, disk.virtual_size, ("host",), facts)]

    def stream(self) -> None:
        planned = planned_vm(self._world.repository, self.name, self._world.vm.uuid)
        assert planned is not None
        values = self._world.ledger.values[self.name]
        for number, disk in enumerate(planned.disks):
            done = not self._cancelled and number >= self._unread and self._read(disk)
            state = "cancelled" if self._cancelled else "complete" if done else "failed"
            values.disks.append(
                DiskProgress(
                    disk=disk.disk,
                    vm=self._world.vm.uuid,
                    state=state,  # type: ignore[arg-type]
                    batches=1,
                    done=int(done),
                    read_bytes=0,
                    stored_bytes=0,
                    started=0.0,
                    ended=1.0,
                    streams=0,
                    attempts=0,
                    error=None if done else state,
                    facts=disk.facts,
                )
            )
        values.cancelled = self._cancelled
        self.reading.clear()

    def _read(self, disk: PlannedDisk) -> bool:
        """Plugged in at the host, read, closed; the packs stored."""
        pool, turns = self._world.pool, self._world.turns
        name = f"VDI:{disk.snapshot}"
        turns.point(f"open {disk.snapshot}").writes = (name,)
        snapshot = pool.by_uuid(disk.snapshot)
        if snapshot is None or not snapshot.has_data:
            self.failed.append(f"{disk.facts.name}: there is nothing to read")
            return False
        vbd = pool.attach(pool.dom0(), snapshot, snapshot.uuid, self.name, plugged=True)
        vbd.opened = True
        self._store(disk, snapshot)
        turns.point(f"close {disk.snapshot}").writes = (name,)
        vbd.opened, vbd.rejects = False, self._refusals
        return True

    def _store(self, disk: PlannedDisk, snapshot: Vdi) -> None:
        plan = self._world.repository.plan(self.name, disk.disk)
        for batch in plan.batch_numbers():
            self._world.turns.point(f"read {disk.snapshot}")
            pack = pack_of(self.name, disk, plan, batch, snapshot.content)
            with suppress(ObjectExists):
                self._world.objects.put_if_absent(*pack)

    def end(self) -> None:
        status = "cancelled" if self._cancelled else "succeeded"
        result = RunResult(self.name, status, None, "lab", None, STARTED, STARTED)  # type: ignore[arg-type]
        self._world.repository.close_run(self.name, result.write())


def block_of(value: int) -> bytes:
    return value.to_bytes(4) * (BLOCK_SIZE // 4)


def pack_of(run: str, disk: PlannedDisk, plan: Plan, batch: int, content: Content) -> tuple[str, bytes]:
    """Key and bytes."""
    blocks = plan.batch(batch)
    keys = PLAIN.metadata.worker
    place = {"disk": disk.disk, "run": run, "snapshot": disk.snapshot}
    writer = PackWriter(keys, **place, batch=batch, virtual_size=disk.virtual_size)
    writer.add(blocks, memoryview(b"".join(block_of(content[block]) for block in blocks.tolist())))
    pack = writer.finish()
    return pack.key, pack.data
