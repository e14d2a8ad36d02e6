"""Supplements: other segments for the blocks of a restore point, which itself is never changed.

Bytes that are moved, and keys that are wrapped anew, need another block map; the blocks stay what they were.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated

from pydantic import Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from workers.repository.errors import DamagedObject
from workers.repository.naming import supplement_key
from workers.repository.point import MEMBERS, Point, SegmentRef, check_segments


@dataclass(frozen=True, config=MEMBERS)
class _Disk:
    vdi: str
    segments: tuple[SegmentRef, ...]


@dataclass(frozen=True, config=MEMBERS)
class _Supplement:
    point: str
    number: Annotated[int, Field(ge=1, lt=10**8)]
    disks: tuple[_Disk, ...]


_SUPPLEMENT = TypeAdapter(_Supplement)


def encode_supplement(point: Point, number: int, segments: Mapping[str, tuple[SegmentRef, ...]]) -> bytes:
    """`segments` by disk (VDI uuid); a disk that is not in it keeps those that the point has."""
    disks = tuple(_Disk(vdi, chosen) for vdi, chosen in segments.items())
    return _SUPPLEMENT.dump_json(_Supplement(point.id, number, disks))


def decode_supplement(data: bytes, key: str, point: Point) -> Point:
    """The point with the segments of its supplement `key`. Raises DamagedObject."""
    try:
        found = _SUPPLEMENT.validate_json(data)
    except ValidationError as error:
        problem = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(map(str, problem["loc"]))
        raise DamagedObject(key, f"{where}: {problem['msg']}") from error
    if found.point != point.id or key != supplement_key(point.key, found.number):
        raise DamagedObject(key, "it is another supplement than its key says")
    chosen = {disk.vdi: disk.segments for disk in found.disks}
    if len(chosen) != len(found.disks) or not chosen.keys() <= {disk.vdi for disk in point.disks}:
        raise DamagedObject(key, "a disk comes twice in it, or is none of its restore point")
    disks = tuple(replace(disk, segments=chosen.get(disk.vdi, disk.segments)) for disk in point.disks)
    for disk in disks:
        check_segments(disk, key)
    return replace(point, disks=disks)
