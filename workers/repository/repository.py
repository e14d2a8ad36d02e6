"""The repository as the scheduler and the command line use it: runs, plans, segments, restore points.

Everything is written once. Writing the same again is fine, writing something else under the same name is an
AlreadyWritten error, except for run records, of which the first one stays.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from workers.extents import BATCH_BLOCKS, BLOCK_SIZE, BitmapError, Plan
from workers.repository.abandoned_writes import remove_abandoned_writes
from workers.repository.earlier_blocks import write_known_hashes
from workers.repository.errors import (
    AlreadyWritten,
    DamagedObject,
    PointAmbiguous,
    PointNotFound,
    RepositoryError,
    RunEnded,
)
from workers.repository.keys import MetadataKeys, PrivateKeys, metadata_of
from workers.repository.limits import BITMAP, VM_METADATA
from workers.repository.listed_points import ListedPoint, listed_points, read_point
from workers.repository.naming import (
    bitmap_key,
    known_prefix,
    metadata_key,
    open_run_key,
    point_id,
    result_key,
    run_vm_key,
    run_vms_prefix,
    supplement_key,
)
from workers.repository.orders import OrderNotSigned, check_order, sign_order
from workers.repository.pack_list import PackList
from workers.repository.point import DiskPoint, Point, SegmentRef, VmMetadata, decode_point, encode_point
from workers.repository.sealed_objects import SealedObjects
from workers.repository.store import ObjectMissing, Store
from workers.repository.supplement import decode_supplement, encode_supplement
from workers.repository.write_segments import SegmentWriter

MAX_VM_METADATA = VM_METADATA.sections[0]
"""Bytes. The records of a VM, its disks and networks are some ten KiB, and there may be a TPM's contents."""
_VIRTUAL_SIZE = struct.Struct("<Q")
_RESULT_KEY = re.compile(r"runs/([^/]+)/result")
_OPEN_KEY = re.compile(r"runs/([^/]+)/open")
_RUN_KEY = re.compile(r"runs/([^/]+)/")


@dataclass(frozen=True)
class StoredBatches:
    """Which batches of a run's plan have a pack, how many bytes of the disk these are, and of the store."""

    batches: frozenset[int]
    read_bytes: int
    stored_bytes: int


class Repository:
    """May be used from several threads: it holds nothing but the store and the keys."""

    def __init__(self, store: Store, keys: MetadataKeys) -> None:
        self._store = store
        self._keys = keys
        self._objects = SealedObjects(store, keys)

    @classmethod
    def open(cls, store: Store, keys: MetadataKeys | PrivateKeys) -> Repository:
        """`keys` come from `load_metadata_keys` or `load_private_keys`, which checked where they belong."""
        return cls(store, metadata_of(keys))

    @property
    def repository_id(self) -> str:
        """Names this repository wherever it leaves a mark, e.g. on the pool."""
        return self._keys.repository

    # Plans

    def keep_plan(self, run: str, disk: str, plan: Plan) -> None:
        """Keeps the changed-block bitmap beside the backup. Raises AlreadyWritten if another one is kept."""
        data = _VIRTUAL_SIZE.pack(plan.virtual_size) + plan.bitmap
        self._objects.put(bitmap_key(disk, run), data, BITMAP)

    def sign_order(self, order: bytes) -> bytes:
        """The signature by which workers know that a scheduler of this repository gave the order."""
        return sign_order(self._keys, order)

    def is_signed(self, order: bytes, signature: str) -> bool:
        """Whether who gave the order has this repository's metadata key; always, without encryption."""
        try:
            check_order(self._keys.worker, order, signature)
        except OrderNotSigned:
            return False
        return True

    def plan(self, run: str, disk: str) -> Plan:
        """Raises ObjectMissing when none was kept, DamagedObject."""
        key = bitmap_key(disk, run)
        data = self._objects.get(key, BITMAP)
        if len(data) < _VIRTUAL_SIZE.size:
            raise DamagedObject(key, "it is too short to be a bitmap")
        try:
            plan = Plan.from_bitmap(data[_VIRTUAL_SIZE.size :], _VIRTUAL_SIZE.unpack_from(data)[0])
        except BitmapError as error:
            raise DamagedObject(key, str(error)) from error
        if plan.bitmap != data[_VIRTUAL_SIZE.size :]:
            raise DamagedObject(key, "it has bits beyond the disk's last block")
        return plan

    def stored_batches(self, run: str, disk: str, snapshot: str, plan: Plan) -> StoredBatches:
        """Lists the run's packs of the disk. A pack is put whole or not at all; what is in it is read when
        segments are written. Packs of one batch that differ are read now, and such a batch counts as not
        stored: it is read again."""
        packs = PackList.of(self._store, disk, run, snapshot, plan)
        sizes = packs.sizes()
        for batch in packs.disagreeing(self._store, self._keys, plan):
            del sizes[batch]
        read = len(sizes) * BATCH_BLOCKS * BLOCK_SIZE
        if plan.batches - 1 in sizes:
            read -= plan.batches * BATCH_BLOCKS * BLOCK_SIZE - plan.changed_bytes  # the last one is shorter
        return StoredBatches(frozenset(sizes), read, sum(sizes.values()))

    # Runs

    # Records of runs are the scheduler's: what is in them is not looked into here.

    def open_run(self, run: str, record: bytes) -> bytes:
        """Says that the run is at work; again is fine: the first record stays and is returned.

        Raises RunEnded.
        """
        if self.result(run) is not None:
            raise RunEnded(f"run {run} has ended already; start another one")
        return self._objects.put_first(open_run_key(run), record)

    def open_record(self, run: str) -> bytes | None:
        """What `open_run` kept; None when the run is not at work."""
        return self._record(open_run_key(run))

    def keep_run_vm(self, run: str, vm_uuid: str, record: bytes) -> bytes:
        """Keeps how a VM of an open run was planned; again is fine: the first record stays and is
        returned."""
        return self._objects.put_first(run_vm_key(run, vm_uuid), record)

    def run_vm(self, run: str, vm_uuid: str) -> bytes | None:
        """What `keep_run_vm` kept; None before, and when the run has ended."""
        return self._record(run_vm_key(run, vm_uuid))

    def _record(self, key: str) -> bytes | None:
        try:
            return self._objects.get(key)
        except ObjectMissing:
            return None

    def run_is_open(self, run: str) -> bool:
        try:
            self._store.head(open_run_key(run))
        except ObjectMissing:
            return False
        return True

    def open_runs(self) -> Iterator[str]:
        """The runs that are at work, or were abandoned."""
        for info in self._store.list("runs/"):
            if match := _OPEN_KEY.fullmatch(info.key):
                yield match[1]

    def run_names(self) -> set[str]:
        """Every run that is at work, was abandoned, or has ended."""
        return {match[1] for info in self._store.list("runs/") if (match := _RUN_KEY.match(info.key))}

    def run_vms(self, run: str) -> set[str]:
        """The VMs (uuids) of which the run has read something, by the names of their records."""
        prefix = run_vms_prefix(run)
        return {info.key.removeprefix(prefix) for info in self._store.list(prefix)}

    def close_run(self, run: str, result: bytes) -> None:
        """Keeps the result and says that the run has ended; again is fine, the first result stays."""
        self._objects.put_first(result_key(run), result)
        for prefix in (run_vms_prefix(run), known_prefix(run)):
            for info in list(self._store.list(prefix)):
                self._store.delete(info.key)
        self._store.delete(open_run_key(run))  # last: a run that is open is looked after again

    def result(self, run: str) -> bytes | None:
        """None when the run has not ended, or never was."""
        return self._record(result_key(run))

    def ended_runs(self) -> Iterator[str]:
        """By name; as names begin with the run's time, the newest comes last."""
        for info in self._store.list("runs/"):
            if match := _RESULT_KEY.fullmatch(info.key):
                yield match[1]

    def remove_abandoned_writes(self) -> int:
        """What dead writers have left in the store, beside its objects: of how many. Raises StoreError."""
        return remove_abandoned_writes(self._store)

    # Segments

    def keep_known_hashes(self, run: str, plan: Plan, earlier: DiskPoint) -> int:
        """Keeps, while the run is open, what workers compare the plan's blocks with: the blocks of the
        `earlier` point of the disk. Returns of how many blocks. Again is fine.

        Raises DamagedObject, ObjectMissing when the earlier point cannot be read.
        """
        return write_known_hashes(self._store, self._keys, run, plan, earlier)

    def write_segments(
        self,
        run: str,
        disk: str,
        snapshot: str,
        plan: Plan,
        parent: DiskPoint | None,
        earlier: DiskPoint | None = None,
        committed: bytes = b"",
        alarm: Callable[[str], None] = lambda line: None,
    ) -> tuple[SegmentRef, ...]:
        """The block map of the disk after this run: the parent's segments and the run's own.

        Reads the index of one pack a batch, checks that it was read from this VDI `snapshot` and that every
        block of the plan is there exactly once, and writes the run's segments; with more than 16 layers all
        are merged. `parent` is ignored when the plan has every block. `earlier` is what `keep_known_hashes`
        was given: of a block that was read and found unchanged, it has the frame. `committed` has the hash of
        the pack of each batch that counts, 16 bytes, zeros where it is not known; `alarm` is told of packs
        that nobody committed and that differ. Idempotent. Raises MissingBatches, DamagedObject,
        DisagreeingPacks, AlreadyWritten.
        """
        writer = SegmentWriter(self._store, self._keys, run, disk, snapshot, plan.virtual_size)
        return writer.write(plan, parent, earlier, committed, alarm)

    # What a VM is besides its disks

    def keep_vm_metadata(self, run: str, vm_uuid: str, data: bytes) -> VmMetadata:
        """Keeps an XVA without disks for the point that this run makes of the VM; again is fine: the first
        one stays. Raises RepositoryError when it is larger than `MAX_VM_METADATA`."""
        if len(data) > MAX_VM_METADATA:
            raise RepositoryError(f"a VM's metadata of {len(data)} bytes are more than are kept")
        key = metadata_key(vm_uuid, run, point_id(run, vm_uuid))
        try:
            self._objects.put(key, data, VM_METADATA)
        except AlreadyWritten:
            data = self._objects.get(key, VM_METADATA)
        return VmMetadata(key, len(data))

    def vm_metadata(self, point: Point) -> bytes:
        """Raises PointNotFound when the point has none, ObjectMissing, DamagedObject."""
        if point.metadata is None:
            raise PointNotFound(f"restore point {point.id} was made without its VM's metadata")
        data = self._objects.get(point.metadata.key, VM_METADATA)
        if len(data) != point.metadata.size:
            raise DamagedObject(point.metadata.key, "it has another size than its restore point says")
        return data

    # Points

    def commit_point(self, point: Point) -> None:
        """Makes the point exist: the last thing that is written. The same point again is fine.

        Raises AlreadyWritten when another point has its name.
        """
        if point.id != point_id(point.run, point.vm_uuid):
            raise RepositoryError(f"restore point {point.id!r} does not have the id of its run and VM")
        decode_point(encode_point(point), point.key)  # what could not be read back is never committed
        self._objects.put(point.key, encode_point(point))

    def points(
        self, vm_uuid: str | None = None, *, on_damage: Callable[[DamagedObject], None] | None = None
    ) -> Iterator[Point]:
        """All restore points, or those of one VM, in the order of their runs.

        A point that cannot be read is given to `on_damage` and passed over; without it, raises DamagedObject.
        """
        for listed in listed_points(self._store, vm_uuid):
            try:
                point = self._read(listed)
            except DamagedObject as error:
                if on_damage is None:
                    raise
                on_damage(error)
            else:
                yield point

    def newest_run(self, vm_uuid: str) -> str | None:
        """The run of the VM's newest restore point, by its key alone."""
        listed = listed_points(self._store, vm_uuid)
        return listed[-1].run if listed else None

    def newest_point(self, vm_uuid: str) -> Point | None:
        """Raises DamagedObject."""
        listed = listed_points(self._store, vm_uuid)
        return self._read(listed[-1]) if listed else None

    def latest_disk(self, vm_uuid: str, vdi: str) -> DiskPoint | None:
        """The disk as it is in the newest point of the VM that holds it."""
        for listed in reversed(listed_points(self._store, vm_uuid)):
            for disk in self._read(listed).disks:
                if disk.vdi == vdi:
                    return disk
        return None

    def disk_of_snapshot(self, vm_uuid: str, vdi: str, snapshot: str) -> DiskPoint:
        """The disk as it is in the point that was made from this VDI snapshot. Raises PointNotFound."""
        for listed in reversed(listed_points(self._store, vm_uuid)):
            for disk in self._read(listed).disks:
                if (disk.vdi, disk.snapshot) == (vdi, snapshot):
                    return disk
        raise PointNotFound(f"the restore point that this backup of disk {vdi} builds upon is gone")

    def point_of_run(self, run: str, vm_uuid: str) -> Point | None:
        """The VM's restore point that this run made, if it did. Raises DamagedObject."""
        identifier = point_id(run, vm_uuid)
        for listed in listed_points(self._store, vm_uuid):
            if listed.id == identifier:
                return self._read(listed)
        return None

    def find_point(self, id_or_prefix: str) -> Point:
        """Raises PointNotFound, or PointAmbiguous when several points begin like this."""
        wanted = id_or_prefix.lower()
        found = [each for each in listed_points(self._store) if wanted and each.id.startswith(wanted)]
        if not found:
            raise PointNotFound(f"there is no restore point {id_or_prefix!r}; `cbtfleet points` lists them")
        if len(found) > 1:
            shown = ", ".join(each.id for each in found[:4]) + (", …" if len(found) > 4 else "")
            raise PointAmbiguous(f"{len(found)} restore points begin with {id_or_prefix!r}: {shown}")
        return self._read(found[0])

    def supplement(self, point: Point, segments: Mapping[str, tuple[SegmentRef, ...]]) -> Point:
        """Gives disks of the point, by VDI uuid, other segments for the same blocks; returns it with these.

        The caller answers for their being the same blocks. A disk that is not named has the segments that the
        point was committed with. Raises AlreadyWritten when somebody else gave it some at the same time.
        """
        listed = {each.key: each.supplement for each in listed_points(self._store, point.vm_uuid)}
        number = listed[point.key] + 1
        key = supplement_key(point.key, number)
        data = encode_supplement(point, number, segments)
        made = decode_supplement(data, key, self._read(ListedPoint(point.vm_uuid, point.run, point.key)))
        self._objects.put(key, data)
        return made

    def forget(self, point: Point) -> None:
        """Drops the point; one that is gone already is fine.

        Only its manifest and its supplements are deleted: what no other point needs of its segments and packs
        stays in the store until it is pruned.
        """
        self._store.delete(point.key)  # first: without it a supplement is waste
        for info in list(self._store.list(f"{point.key}.")):
            self._store.delete(info.key)

    def _read(self, listed: ListedPoint) -> Point:
        return read_point(self._objects, listed)
