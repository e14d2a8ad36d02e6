"""Restore points as a listing shows them, and reading one: the point, and the supplement that counts.

points/<vm>/<run>-<id>              the point
points/<vm>/<run>-<id>.00000001     a supplement: other segments for the same blocks
points/<vm>/<run>-<id>.00000002     a later one, which counts alone
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from workers.repository.naming import PointName, checked_name, parse_supplement, run_time, supplement_key
from workers.repository.point import Point, decode_point
from workers.repository.sealed_objects import SealedObjects
from workers.repository.store import Store
from workers.repository.supplement import decode_supplement


@dataclass(frozen=True)
class ListedPoint:
    """What keys alone say of a restore point. `supplement` is the number of the newest one, 0 without any."""

    vm_uuid: str
    run: str
    key: str
    supplement: int = 0

    @property
    def id(self) -> str:
        return self.key.rpartition("-")[2]

    @property
    def made(self) -> datetime | None:
        """When its run was asked for, where its name says that."""
        return run_time(self.run)


def listed_points(store: Store, vm_uuid: str | None = None) -> list[ListedPoint]:
    """Those of one VM or of all, in the order of their runs. One listing; no key of encryption is needed."""
    names: list[PointName] = []
    newest: dict[str, int] = {}
    for info in store.list("points/" if vm_uuid is None else f"points/{checked_name(vm_uuid)}/"):
        if name := PointName.parse(info.key):
            names.append(name)
        elif supplement := parse_supplement(info.key):
            key, number = supplement
            newest[key] = max(number, newest.get(key, 0))
    names.sort(key=lambda name: name.order)
    return [ListedPoint(name.vm_uuid, name.run, name.key, newest.get(name.key, 0)) for name in names]


def read_point(objects: SealedObjects, listed: ListedPoint) -> Point:
    """With the segments of the supplement that counts. Raises ObjectMissing, DamagedObject."""
    point = decode_point(objects.get(listed.key), listed.key)
    if not listed.supplement:
        return point
    key = supplement_key(listed.key, listed.supplement)
    return decode_supplement(objects.get(key), key, point)
