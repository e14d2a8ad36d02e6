"""The names of objects, and the bindings that tie sealed bytes to their place.

config                               packs/<disk>/<run>/<batch>-<hash>
segments/<disk>/<run>/<number>       segments/<disk>/<run>/merged-<number>
bitmaps/<disk>/<run>                 points/<vm>/<run>-<id>
runs/<run>/open                      runs/<run>/result
runs/<run>/vms/<vm>                  known/<run>/<disk>/<number>
metadata/<vm>/<run>-<id>               points/<vm>/<run>-<id>.<number>
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import NamedTuple

from blake3 import blake3

from workers.repository.errors import RepositoryError

CONFIG_KEY = "config"
MAX_NAME = 128
"""Characters of a name."""

BATCH_NUMBERS = 10**8
"""Batches are numbered with 8 decimal digits."""

_NAME = re.compile(r"[0-9A-Za-z_-][0-9A-Za-z._-]{0,127}")
_PACK = re.compile(r"packs/([^/]+)/([^/]+)/([0-9]{8})-([0-9a-f]{32})")
_SEGMENT = re.compile(r"segments/([^/]+)/([^/]+)/(?:merged-)?[0-9]{8}")
_POINT = re.compile(r"points/([^/]+)/([^/]+)-([0-9a-f]{12})")
_SUPPLEMENT = re.compile(r"(points/[^/]+/[^/]+-[0-9a-f]{12})\.([0-9]{8})")
_RUN_TIME = re.compile(r"([0-9]{8}T[0-9]{6}Z)-.+")


class PackName(NamedTuple):
    """What a pack's key says: `hash` is the BLAKE3 of the object, 16 bytes."""

    disk: str
    run: str
    batch: int
    hash: bytes

    @property
    def key(self) -> str:
        return f"{pack_prefix(self.disk, self.run)}{self.batch:08d}-{self.hash.hex()}"

    @classmethod
    def parse(cls, key: str) -> PackName | None:
        """None when `key` is not a pack's."""
        match = _PACK.fullmatch(key)
        if match is None or not (is_name(match[1]) and is_name(match[2])):
            return None
        return cls(match[1], match[2], int(match[3]), bytes.fromhex(match[4]))


class PointName(NamedTuple):
    """What a restore point's key says: its VM, the run that made it, and its id.

    The order of runs is the order of their names: (run, ...) sorts points.
    """

    vm_uuid: str
    run: str
    id: str

    @property
    def key(self) -> str:
        return point_key(self.vm_uuid, self.run, self.id)

    @property
    def order(self) -> tuple[str, str, str]:
        return (self.run, self.vm_uuid, self.id)

    @classmethod
    def parse(cls, key: str) -> PointName | None:
        """None when `key` is not a restore point's."""
        match = _POINT.fullmatch(key)
        if match is None or not (is_name(match[1]) and is_name(match[2])):
            return None
        return cls(*match.groups())


def is_name(name: str) -> bool:
    """Whether `name` can be a disk, VM, run or snapshot: no slash, no NUL, not hidden, 128 characters."""
    return _NAME.fullmatch(name) is not None


def checked_name(name: str) -> str:
    """`name` itself. Raises RepositoryError when it could not be part of a key."""
    if not is_name(name):
        raise RepositoryError(f"{name!r} cannot name a disk, a VM or a run")
    return name


def binding(kind: str, repository: str, *names: str | int) -> bytes:
    """What a sealed thing is and where it belongs: goes into associated data and HPKE / HKDF info."""
    return "\0".join(("cbtfleet 1", kind, repository, *map(str, names))).encode("ascii")


def pack_prefix(disk: str, run: str) -> str:
    return f"packs/{checked_name(disk)}/{checked_name(run)}/"


def segment_key(disk: str, run: str, number: int, *, merged: bool = False) -> str:
    return f"segments/{checked_name(disk)}/{checked_name(run)}/{'merged-' if merged else ''}{number:08d}"


def is_segment_key(key: str, disk: str) -> bool:
    """Whether `key` is that of a segment of this disk."""
    match = _SEGMENT.fullmatch(key)
    return match is not None and match[1] == disk and is_name(match[2])


def bitmap_key(disk: str, run: str) -> str:
    return f"bitmaps/{checked_name(disk)}/{checked_name(run)}"


def open_run_key(run: str) -> str:
    return f"runs/{checked_name(run)}/open"


def run_vms_prefix(run: str) -> str:
    return f"runs/{checked_name(run)}/vms/"


def run_vm_key(run: str, vm_uuid: str) -> str:
    return f"{run_vms_prefix(run)}{checked_name(vm_uuid)}"


def known_prefix(run: str) -> str:
    return f"known/{checked_name(run)}/"


def known_key(run: str, disk: str, number: int) -> str:
    return f"{known_prefix(run)}{checked_name(disk)}/{number:08d}"


def result_key(run: str) -> str:
    return f"runs/{checked_name(run)}/result"


def point_id(run: str, vm_uuid: str) -> str:
    """12 hexadecimal digits, the same ones for the same run and VM: a repeated commit finds itself."""
    return blake3(f"{run}\0{vm_uuid}".encode()).hexdigest(length=6)


def point_key(vm_uuid: str, run: str, identifier: str) -> str:
    return f"points/{checked_name(vm_uuid)}/{checked_name(run)}-{identifier}"


def supplement_key(point: str, number: int) -> str:
    """Of the supplement of this number to the restore point of this key."""
    return f"{point}.{number:08d}"


def parse_supplement(key: str) -> tuple[str, int] | None:
    """The restore point's key and the number; None when `key` is not a supplement's."""
    match = _SUPPLEMENT.fullmatch(key)
    return None if match is None else (match[1], int(match[2]))


def metadata_key(vm_uuid: str, run: str, identifier: str) -> str:
    """Of the VM's metadata as they were at this restore point."""
    return f"metadata/{checked_name(vm_uuid)}/{checked_name(run)}-{identifier}"


def run_time(run: str) -> datetime | None:
    """When the run was asked for, by the clock of who asked, in UTC; None when its name does not say."""
    match = _RUN_TIME.fullmatch(run)
    if match is None:
        return None
    try:
        return datetime.strptime(match[1], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    except ValueError:
        return None
