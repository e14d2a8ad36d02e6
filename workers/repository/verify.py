"""Verifying restore points: is every object and every frame they refer to still what was written?

Points share most of their segments and packs, so all points of a disk are walked together and each frame is
checked once. Damage is noted and the work goes on; only a store that cannot be asked ends it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import numpy.typing as npt

from workers.extents import MAX_DISK_SIZE, block_count, block_length
from workers.repository.errors import DamagedObject
from workers.repository.frame_sample import FrameSample
from workers.repository.index import read_pack_tail
from workers.repository.keys import PrivateKeys
from workers.repository.naming import PackName, pack_prefix
from workers.repository.overlay import Part, windows
from workers.repository.pack_layout import HEADER, header
from workers.repository.parallel import in_parallel
from workers.repository.point import DiskPoint, Point, SegmentRef
from workers.repository.segment import BlockMap, PackTable, read_segment
from workers.repository.spans import Span, join_frames, open_span, without_holes
from workers.repository.store import ObjectInfo, ObjectMissing, ObjectTruncated, Store


@dataclass(frozen=True)
class Damage:
    """One damaged object, or one block in it (`block` is the disk's block number)."""

    object: str
    block: int | None
    why: str


@dataclass(frozen=True)
class Verified:
    """`checked_bytes` are stored bytes: of the frames that were fetched, opened and compared.

    `frames` is how many there are in all, more than `checked_frames` when a sample was checked.
    """

    checked_frames: int
    checked_bytes: int
    frames: int
    damaged: list[Damage]


@dataclass(frozen=True)
class _Outcome:
    frames: int = 0
    bytes: int = 0
    damaged: list[Damage] = field(default_factory=list)


def verify_points(
    store: Store,
    keys: PrivateKeys,
    points: Iterable[Point],
    *,
    sample: int | None = None,
    seed: int = 0,
    threads: int = 8,
    progress: Callable[[int], None] | None = None,
) -> Verified:
    """Checks everything that `points` refer to: segments, packs, and each frame's tag and hash.

    A frame counts as referred to when a segment of a point lists it, also when a later layer of that point
    replaces it. A pack that is missing or has another size is one Damage without a block; of a shorter one
    the frames that are left are checked. Packs' own indexes are checked too, but not with `sample`.

    With `sample`, that many frames of all are chosen at random (by `seed`, all alike likely), and segments
    and the presence and size of packs are checked all the same. A sample of n frames finds damage of a share
    p of all frames with a probability of 1 - (1 - p)^n: 6,905 find one frame in a thousand with 99.9 %.

    `progress` gets stored bytes checked, from the calling thread. Memory: 8 MiB a thread, 13 MiB for each
    different layer of the points of one disk, 500 bytes for each of its packs.
    Raises StoreError when the store itself fails.
    """
    verifier = _Verifier(store, keys, None if sample is None else FrameSample(sample, seed))
    advance = progress or (lambda count: None)
    checked_frames = checked_bytes = 0
    with closing(in_parallel(verifier.tasks(points), threads)) as outcomes:
        for outcome in outcomes:
            checked_frames += outcome.frames
            checked_bytes += outcome.bytes
            verifier.note(outcome.damaged)
            advance(outcome.bytes)
    return Verified(checked_frames, checked_bytes, verifier.frames, verifier.damaged)


class _Verifier:
    """Finds out what is to be checked, and keeps what was found. All of it in the calling thread."""

    def __init__(self, store: Store, keys: PrivateKeys, sample: FrameSample | None) -> None:
        self._store = store
        self._keys = keys
        self._sample = sample
        self._damaged: dict[Damage, None] = {}
        self._cut: dict[str, int] = {}
        """Packs that have another size than they should, or none: key -> size."""
        self.frames = 0

    @property
    def damaged(self) -> list[Damage]:
        return list(self._damaged)

    def note(self, damaged: Iterable[Damage]) -> None:
        """The same damage may be met more than once: a key that does not open shows at every span."""
        self._damaged.update(dict.fromkeys(damaged))

    def tasks(self, points: Iterable[Point]) -> Iterator[Callable[[], _Outcome]]:
        for disks in _by_disk(points):
            size = max(disk.virtual_size for disk in disks)
            packs = _SeenPacks(self._store)
            layers = list(dict.fromkeys(layer for disk in disks for layer in disk.layers()))
            for window in windows(layers, block_count(size), partial(self._read, size)):
                for part in window.parts:
                    yield from self._new_packs(packs, part.table)
                for table, frames in packs.different_frames(window.parts):
                    self.frames += len(frames)
                    if self._sample is None:
                        yield from self._spans(table, frames, size)
                    else:
                        self._sample.offer(table, frames)
        if self._sample is not None:
            for table, frames in self._sample.chosen():
                yield from self._spans(table, frames, MAX_DISK_SIZE)

    def _read(self, virtual_size: int, segment: SegmentRef) -> BlockMap | None:
        try:
            return read_segment(self._store, self._keys.metadata, segment, virtual_size)
        except (DamagedObject, ObjectMissing) as error:
            self.note([_damage(segment.key, error)])
            return None

    def _new_packs(self, packs: _SeenPacks, table: PackTable) -> Iterator[Callable[[], _Outcome]]:
        for info, size in packs.not_seen(table):
            if size == info.size:
                if self._sample is None:
                    yield partial(_check_pack, self._store, self._keys, info)
                continue
            self._cut[info.key] = size or 0
            why = "it is not in the store" if size is None else f"it has {size} bytes, not {info.size}"
            self.note([Damage(info.key, None, why)])

    def _spans(
        self, table: PackTable, frames: npt.NDArray[np.void], virtual_size: int
    ) -> Iterator[Callable[[], _Outcome]]:
        if self._cut:
            there = np.array(
                [self._cut.get(table.name(row).key, 1 << 62) for row in range(len(table))], np.uint64
            )
            frames = frames[frames["offset"] + frames["length"] <= there[frames["pack"]]]
        for span in join_frames(table, frames):
            yield partial(_check_span, self._store, self._keys, span, virtual_size)


class _SeenPacks:
    """The packs that the points of one disk refer to and that were met so far."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._listed: dict[tuple[str, str], dict[tuple[int, bytes], int]] = {}
        self._seen: set[tuple[PackName, int]] = set()
        self._numbers: dict[tuple[bytes, str, str, int], int] = {}

    def not_seen(self, table: PackTable) -> Iterator[tuple[ObjectInfo, int | None]]:
        """What packs of a table should be, and their size in the store; each only once."""
        for row in range(len(table)):
            name = table.name(row)
            size = table.size(row)
            if (name, size) in self._seen:
                continue
            self._seen.add((name, size))
            folder = (name.disk, name.run)
            if folder not in self._listed:
                self._list(*folder)
            yield ObjectInfo(name.key, size), self._listed[folder].get((name.batch, name.hash))

    def different_frames(self, parts: list[Part]) -> Iterator[tuple[PackTable, npt.NDArray[np.void]]]:
        """The frames of the parts: one that several layers (a merged one) list comes once."""
        found = [(part.table, without_holes(part.entries)) for part in parts]
        if len(found) > 1:
            names = [self._places(table, frames) for table, frames in found]
            _, first = np.unique(np.concatenate(names), return_index=True)
            is_first = np.zeros(sum(map(len, names)), np.bool_)
            is_first[first] = True
            edges = np.cumsum([len(frames) for _, frames in found])[:-1]
            found = [
                (table, frames[chosen])
                for (table, frames), chosen in zip(found, np.split(is_first, edges), strict=True)
            ]
        return ((table, frames) for table, frames in found if len(frames))

    def _places(self, table: PackTable, frames: npt.NDArray[np.void]) -> npt.NDArray[np.uint64]:
        """One number for pack, origin and block; a disk has at most 2^30 blocks."""
        numbers = [self._number(table, row) for row in range(len(table))]
        packs = np.array(numbers, np.uint64)[frames["pack"]]
        return np.asarray((packs << np.uint64(30)) | frames["block"], np.uint64)

    def _number(self, table: PackTable, row: int) -> int:
        """In one object, the same block may come twice: copied from two origins."""
        origin = table.origin(row)
        place = (table.name(row).hash, origin.disk, origin.run, origin.batch)
        return self._numbers.setdefault(place, len(self._numbers))

    def _list(self, disk: str, run: str) -> None:
        found = self._listed[disk, run] = {}
        for info in self._store.list(pack_prefix(disk, run)):
            name = PackName.parse(info.key)
            if name is not None:
                found[name.batch, name.hash] = info.size


def _by_disk(points: Iterable[Point]) -> Iterable[list[DiskPoint]]:
    found: dict[str, list[DiskPoint]] = {}
    for point in points:
        for disk in point.disks:
            found.setdefault(disk.vdi, []).append(disk)
    return found.values()


def _check_pack(store: Store, keys: PrivateKeys, info: ObjectInfo) -> _Outcome:
    """What restoring does not need but the pack is made of: header, footer and its own index."""
    try:
        read_pack_tail(store, info, keys.metadata)
        if store.get_range(info.key, 0, HEADER.size) != header(keys.encrypted):
            return _Outcome(damaged=[Damage(info.key, None, "its header is not a pack's")])
    except (DamagedObject, ObjectMissing, ObjectTruncated) as error:
        return _Outcome(damaged=[_damage(info.key, error)])
    return _Outcome()


def _check_span(store: Store, keys: PrivateKeys, span: Span, virtual_size: int) -> _Outcome:
    key = span.table.name(span.pack).key
    damaged: list[Damage] = []
    try:
        for block, plain in open_span(store, keys, span):
            if isinstance(plain, DamagedObject):
                damaged.append(_damage(key, plain))
            elif len(plain) > block_length(block, virtual_size):
                damaged.append(Damage(key, block, "the block is longer than its disk"))
    except (DamagedObject, ObjectMissing, ObjectTruncated) as error:
        damaged.append(_damage(key, error))
    return _Outcome(len(span.entries), int(span.entries["length"].sum()), damaged)


def _damage(key: str, error: DamagedObject | ObjectMissing | ObjectTruncated) -> Damage:
    if isinstance(error, DamagedObject):
        return Damage(error.object, error.block, error.why)
    if isinstance(error, ObjectMissing):
        return Damage(key, None, "it is not in the store")
    return Damage(key, None, "it is truncated")
