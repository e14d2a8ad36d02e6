"""The newest restore points of many VMs, for one listing and a few objects."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime

from workers.repository.keys import MetadataKeys
from workers.repository.naming import PointName, run_time
from workers.repository.point import DiskPoint, decode_point
from workers.repository.sealed_objects import SealedObjects
from workers.repository.store import Store


@dataclass(frozen=True)
class ListedPoint:
    """What a restore point's key alone says; `made` is when its run was asked for, where that says it."""

    vm_uuid: str
    run: str
    key: str

    @property
    def made(self) -> datetime | None:
        return run_time(self.run)


def list_points(store: Store) -> dict[str, list[ListedPoint]]:
    """By VM, the newest last. One listing; no key of encryption is needed."""
    found: dict[str, list[ListedPoint]] = {}
    for info in store.list("points/"):
        if name := PointName.parse(info.key):
            found.setdefault(name.vm_uuid, []).append(ListedPoint(name.vm_uuid, name.run, info.key))
    for points in found.values():
        points.sort(key=lambda point: (point.run, point.key))
    return found


def newest_disks(
    store: Store, keys: MetadataKeys, points: Sequence[ListedPoint], disks: Collection[str], most: int
) -> dict[str, DiskPoint]:
    """Each of the disks (uuids of live VDIs) as it is in the newest of one VM's points that holds it.

    Reads `most` points at most, the newest first; a disk that none of them holds is missing. Raises
    DamagedObject, ObjectMissing when a point was forgotten meanwhile, or another StoreError.
    """
    found: dict[str, DiskPoint] = {}
    for listed in list(reversed(points))[:most]:
        if found.keys() >= set(disks):
            break
        point = decode_point(SealedObjects(store, keys).get(listed.key), listed.key)
        for disk in point.disks:
            if disk.vdi in disks:
                found.setdefault(disk.vdi, disk)
    return found
