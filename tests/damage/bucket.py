"""A small repository with every kind of object in it, and everything that is ever read of it.

One VM with two disks and three points: a full, an incremental that is merged with it (see `made`), and a
re-baseline that refers to packs of both. A fourth run is at work: it has records, bitmaps and known hashes.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from tests.repository_machine import DISK, SNAPSHOT, VM, Machine, MemoryStore
from workers.errors import CbtfleetError
from workers.extents import BLOCK_SIZE, Plan
from workers.repository import (
    DamagedObject,
    DiskPoint,
    KnownHashes,
    Point,
    PrivateKeys,
    Repository,
    check_config,
    read_pack_tail,
    restore_disk,
)
from workers.repository.config import encode_config, new_config
from workers.repository.naming import CONFIG_KEY
from workers.repository.store import ObjectInfo, Store

OTHER_DISK = "22222222-2222-3333-4444-555555555555"
SIZE = 520 * BLOCK_SIZE + 100
RUNS = tuple(f"20261122T0{hour}0000Z-night{hour}" for hour in range(4))
FULL, MERGED, REBASED, OPEN = RUNS


@dataclass(frozen=True)
class Damaged:
    """What a reading says of a damaged object: one line."""

    text: str


class Bucket:
    """`objects` is the repository as it was made; `points` are its points with the disks' content."""

    def __init__(self, keys: PrivateKeys, *, seed: int = 7) -> None:
        self.keys = keys
        self.store = MemoryStore()
        self.points: list[Point] = []
        self.contents: dict[tuple[str, str], str] = {}
        """Point and disk -> SHA-256."""
        self._machines = [
            Machine(self.store, keys, SIZE, disk=DISK, seed=seed),
            Machine(self.store, keys, 3 * BLOCK_SIZE, disk=OTHER_DISK, seed=seed + 1),
        ]
        self._repository = Repository.open(self.store, keys)
        self.store.put_if_absent(CONFIG_KEY, encode_config(new_config(keys.metadata.worker)))
        self._back_up(FULL, {0: [0, 1, 511, 512, 520], 1: [0, 2]})
        self._back_up(MERGED, {0: [1, 2, 520], 1: [1]})
        self._rebase(REBASED)
        self._supplement()
        self._repository.open_run(OPEN, b"{}")
        self._repository.keep_run_vm(OPEN, VM, b"{}")
        for machine in self._machines:
            plan = Plan.full(machine.size)
            self._repository.keep_plan(OPEN, machine.disk, plan)
            assert machine.parent is not None
            self._repository.keep_known_hashes(OPEN, plan, machine.parent)
        self.objects = dict(self.store.objects)

    def _back_up(self, run: str, changed: dict[int, list[int]]) -> None:
        disks = []
        for number, machine in enumerate(self._machines):
            machine.write(changed[number])
            plan = Plan.full(machine.size) if machine.parent is None else machine.plan(changed[number])
            self._repository.keep_plan(run, machine.disk, plan)
            disks.append(machine.backup(run, plan))
        self._commit(run, disks)

    def _supplement(self) -> None:
        """The second point's first disk has its block map elsewhere; nobody else needs the old one."""
        point = self.points[1]
        before = point.disks[0].segments
        made = self._machines[0].moved(before, "20261122T050000Z-moved")
        self.points[1] = self._repository.supplement(point, {DISK: made})
        for segment in before:
            del self.store.objects[segment.key]

    def _rebase(self, run: str) -> None:
        disks = []
        for machine in self._machines:
            earlier, plan = machine.parent, Plan.full(machine.size)
            assert earlier is not None
            machine.write([0])
            self._repository.keep_plan(run, machine.disk, plan)
            self._repository.keep_known_hashes(run, plan, earlier)
            for batch in plan.batch_numbers():
                pack = machine.pack(run, plan, batch, known=self._known(run, machine.disk, earlier, batch))
                self.store.put_if_absent(pack.key, pack.data)
            segments = self._repository.write_segments(run, machine.disk, SNAPSHOT, plan, None, earlier)
            machine.parent = None
            machine.parent = machine.point(run, segments).disks[0]
            disks.append(machine.parent)
        self._commit(run, disks)

    def _known(self, run: str, disk: str, earlier: DiskPoint, batch: int) -> bytes:
        worker = self.keys.metadata.worker
        known = KnownHashes(self.store, worker, run=run, disk=disk, snapshot=earlier.snapshot)
        return known.of(batch)

    def _commit(self, run: str, disks: list[DiskPoint]) -> None:
        made = replace(self._machines[0].point(run, ()), disks=tuple(disks))
        metadata = self._repository.keep_vm_metadata(run, VM, b"xva" + run.encode())
        made = replace(made, metadata=metadata)
        self._repository.commit_point(made)
        self._repository.close_run(run, b'{"run": "%s"}' % run.encode())
        self.points.append(made)
        for machine in self._machines:
            self.contents[made.id, machine.disk] = hashlib.sha256(machine.content).hexdigest()

    def readings(self) -> dict[str, Callable[[Store], object]]:
        """Each thing that is read of a repository, by a name of its own."""
        found: dict[str, Callable[[Store], object]] = {
            "config": lambda store: check_config(store, self.keys.metadata.worker),
            "the list of points": self._listed,
            "run names": lambda store: sorted(self._open(store).run_names()),
            "the open record": lambda store: self._open(store).open_record(OPEN),
            "a VM's record": lambda store: self._open(store).run_vm(OPEN, VM),
        }
        for run in RUNS[:3]:
            found[f"result of {run}"] = lambda store, run=run: self._open(store).result(run)
        for run in RUNS:
            for machine in self._machines:
                found[f"plan of {run}, {machine.disk}"] = partial(self._plan, run, machine.disk)
        for point in self.points:
            found[f"metadata of {point.id}"] = partial(self._metadata, point)
            found[f"point {point.id}"] = lambda store, point=point: self._open(store).find_point(point.id)
            for disk in point.disks:
                found[f"disk {disk.vdi} of {point.id}"] = partial(self._restored, point.id, disk.vdi)
        for key, data in self.objects.items():
            if key.startswith("packs/"):
                found[f"index of {key}"] = partial(self._index, ObjectInfo(key, len(data)))
        for machine in self._machines:
            parent = machine.parent
            assert parent is not None
            for batch in range(Plan.full(machine.size).batches):
                found[f"hashes of {machine.disk}, {batch}"] = partial(self._hashes, parent, batch)
        return found

    def _open(self, store: Store) -> Repository:
        return Repository.open(store, self.keys)

    def _listed(self, store: Store) -> object:
        """What is damaged is left out, and is said."""
        said: list[DamagedObject] = []
        points = list(self._open(store).points(on_damage=said.append))
        return points if not said else Damaged(str(said[0]))

    def _plan(self, run: str, disk: str, store: Store) -> object:
        return self._open(store).plan(run, disk).bitmap

    def _metadata(self, point: Point, store: Store) -> object:
        return self._open(store).vm_metadata(point)

    def _index(self, info: ObjectInfo, store: Store) -> object:
        size = store.head(info.key).size
        return read_pack_tail(store, ObjectInfo(info.key, size), self.keys.metadata).entries.tobytes()

    def _hashes(self, earlier: DiskPoint, batch: int, store: Store) -> object:
        worker = self.keys.metadata.worker
        known = KnownHashes(store, worker, run=OPEN, disk=earlier.vdi, snapshot=earlier.snapshot)
        return known.of(batch)

    def _restored(self, point: str, vdi: str, store: Store) -> object:
        (disk,) = [disk for disk in self._open(store).find_point(point).disks if disk.vdi == vdi]
        with tempfile.TemporaryDirectory() as folder:
            restore_disk(store, self.keys, disk, Path(folder) / "disk", threads=1)
            with (Path(folder) / "disk").open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()


def outcome(reading: Callable[[Store], object], store: Store) -> object:
    """What it gives, or what it says of the damage. Anything but an error of ours goes through."""
    try:
        return reading(store)
    except CbtfleetError as error:
        return Damaged(str(error))
