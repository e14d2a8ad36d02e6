"""A restore point: one VM at one time, complete in itself.

Point -> DiskPoint (one a disk) -> SegmentRef (oldest first; those of one run are a layer)
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from itertools import groupby
from typing import Annotated, Literal

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from workers.extents import MAX_DISK_SIZE, block_count
from workers.repository.errors import DamagedObject
from workers.repository.limits import SEGMENT
from workers.repository.naming import is_name, is_segment_key, metadata_key, point_id, point_key, run_time

MEMBERS = ConfigDict(extra="ignore")
"""Members that a later version adds are no reason to refuse a restore."""

_TIME = r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$"

Count = Annotated[int, Field(ge=0)]


@dataclass(frozen=True, config=MEMBERS)
class SegmentRef:
    """A piece of block map: its key, its first and last block, and what is needed to read it well.

    `packs` is the number of rows of its pack table, which ends `table_bytes` into the object of `size` bytes.
    """

    key: str
    first: Count
    last: Count
    entries: Annotated[int, Field(ge=1)]
    packs: Count
    size: Annotated[int, Field(ge=0, le=SEGMENT.stored)]
    table_bytes: Count

    @property
    def run(self) -> str:
        """The run that wrote it."""
        return self.key.split("/")[2]


@dataclass(frozen=True, config=MEMBERS)
class DiskPoint:
    """One disk at the time of the point. Byte counts are of this run; `snapshot` is the next base's uuid."""

    vdi: str
    name: str
    userdevice: str
    virtual_size: Annotated[int, Field(ge=0, le=MAX_DISK_SIZE)]
    snapshot: str
    sr: str
    mode: Literal["full", "incremental"]
    reason: str | None
    changed_bytes: int
    read_bytes: int
    stored_bytes: int
    segments: tuple[SegmentRef, ...]

    def layers(self) -> list[tuple[SegmentRef, ...]]:
        """The segments by run, oldest first; the later layer wins."""
        return layers_of(self.segments)


@dataclass(frozen=True, config=MEMBERS)
class VmMetadata:
    """Where the VM's metadata are, and how many bytes they have when they are read."""

    key: str
    size: Count


@dataclass(frozen=True, config=MEMBERS)
class Point:
    """One VM at one time. The order of points is that of their runs.

    `time` is by the pool's clock, ISO 8601 in UTC to the second (`2026-11-22T01:00:00Z`), for people; `id` is
    `point_id(run, vm_uuid)`.
    """

    id: str
    vm: str
    vm_uuid: str
    time: Annotated[str, Field(pattern=_TIME)]
    run: str
    pool: str
    disks: tuple[DiskPoint, ...]
    policy: str | None = None
    """Whose `keep` decides about it; None: made by hand, so it stays until it is forgotten by hand."""
    metadata: VmMetadata | None = None
    """None: the pool did not give them."""
    previous: str | None = None
    """The run of the VM's newest point when this one was planned: a bucket that went back in time shows."""

    @property
    def key(self) -> str:
        return point_key(self.vm_uuid, self.run, self.id)

    @property
    def order(self) -> tuple[str, str, str]:
        return (self.run, self.vm_uuid, self.id)

    @property
    def made(self) -> datetime:
        """When its run was asked for, by our own clock; by the pool's where the run's name does not say."""
        return run_time(self.run) or datetime.fromisoformat(self.time)


def layers_of(segments: Iterable[SegmentRef]) -> list[tuple[SegmentRef, ...]]:
    """Consecutive segments of one run are one layer."""
    return [tuple(layer) for _, layer in groupby(segments, lambda segment: segment.run)]


_POINT = TypeAdapter(Point)


def encode_point(point: Point) -> bytes:
    return _POINT.dump_json(point)


def decode_point(data: bytes, key: str) -> Point:
    """Raises DamagedObject when `data` is not a point, or not the one of this key."""
    try:
        point = _POINT.validate_json(data)
    except ValidationError as error:
        problem = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(map(str, problem["loc"]))
        raise DamagedObject(key, f"{where}: {problem['msg']}") from error
    if point.key != key:
        raise DamagedObject(key, "it is another restore point than its key says")
    if point.id != point_id(point.run, point.vm_uuid):
        raise DamagedObject(key, "its id is not the one of its run and VM")
    if len({disk.vdi for disk in point.disks}) != len(point.disks):
        raise DamagedObject(key, "a disk comes twice in it")
    for disk in point.disks:
        check_segments(disk, key)
    if point.metadata is not None and point.metadata.key != metadata_key(point.vm_uuid, point.run, point.id):
        raise DamagedObject(key, "its VM's metadata are another point's")
    return point


def check_segments(disk: DiskPoint, key: str) -> None:
    """Raises DamagedObject, naming the object `key`, unless the disk's segments are its own and in order."""
    blocks = block_count(disk.virtual_size)
    if not is_name(disk.vdi):
        raise DamagedObject(key, "a disk's name is not a uuid")
    for segment in disk.segments:
        if not is_segment_key(segment.key, disk.vdi):
            raise DamagedObject(key, f"it refers to a segment {segment.key!r}, which is none of its disk")
        if segment.table_bytes > segment.size:
            raise DamagedObject(key, f"segment {segment.key} has a pack table beyond its end")
    for layer in disk.layers():
        end = -1
        for segment in layer:
            if not end < segment.first <= segment.last < blocks:
                raise DamagedObject(key, f"segment {segment.key} is out of order or beyond its disk's end")
            end = segment.last
