"""The newest restore points of many VMs, for one listing and a few objects."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from workers.repository.errors import DamagedObject
from workers.repository.keys import MetadataKeys
from workers.repository.listed_points import ListedPoint, listed_points, read_point
from workers.repository.point import DiskPoint, Point
from workers.repository.sealed_objects import SealedObjects
from workers.repository.store import ObjectMissing, Store


def list_points(store: Store) -> dict[str, list[ListedPoint]]:
    """By VM, the newest last. One listing; no key of encryption is needed."""
    found: dict[str, list[ListedPoint]] = {}
    for point in listed_points(store):
        found.setdefault(point.vm_uuid, []).append(point)
    return found


@dataclass(frozen=True)
class NewestDisks:
    """What the newest points of one VM tell of its disks."""

    disks: Mapping[str, DiskPoint]
    """By uuid of the live VDI: the disk in the newest point that holds it."""
    newest: tuple[DiskPoint, ...] = ()
    """All disks of the newest point, when a point was read at all."""
    point: Point | None = None
    """The newest point, when it was read."""
    damage: str = ""
    """Which point could not be read, and why: what `disks` lacks may be in it."""


def newest_disks(
    store: Store, keys: MetadataKeys, points: Sequence[ListedPoint], disks: Collection[str], most: int
) -> NewestDisks:
    """Each of the disks (uuids of live VDIs) as it is in the newest of one VM's points that holds it.

    Reads `most` points at most, the newest first, and none beyond a damaged one. A point that was forgotten
    meanwhile is passed over. Raises StoreError.
    """
    found: dict[str, DiskPoint] = {}
    newest: Point | None = None
    damage = ""
    for listed in list(reversed(points))[:most]:
        if damage or found.keys() >= set(disks):
            break
        try:
            point = read_point(SealedObjects(store, keys), listed)
        except ObjectMissing:
            continue
        except DamagedObject as error:
            damage = str(error)
            continue
        newest = newest or point
        for disk in point.disks:
            if disk.vdi in disks:
                found.setdefault(disk.vdi, disk)
    return NewestDisks(found, newest.disks if newest is not None else (), newest, damage)
