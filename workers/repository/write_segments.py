"""Turning a run's packs into segments, and many layers of segments into one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from workers.extents import BATCH_BLOCKS, Plan, block_count
from workers.repository.earlier_blocks import UnchangedBlocks
from workers.repository.errors import AlreadyWritten, RepositoryError
from workers.repository.index import PackTail
from workers.repository.keys import MetadataKeys
from workers.repository.limits import SEGMENT, get_within
from workers.repository.naming import segment_key
from workers.repository.overlay import block_maps
from workers.repository.pack_list import PackList
from workers.repository.point import DiskPoint, SegmentRef, layers_of
from workers.repository.segment import (
    PACK_ROW,
    SEGMENT_ENTRIES,
    SEGMENT_ENTRY,
    BlockMap,
    PackTable,
    join,
    only_frames,
    open_segment,
    read_segment,
    reference_of,
    seal_segment,
    without_unused,
)
from workers.repository.store import ObjectExists, Store

_BATCHES = SEGMENT_ENTRIES // BATCH_BLOCKS
"""Batches a segment: a batch is never cut."""

MAX_LAYERS = 16
"""With more layers than this, a restore would read much block map that is overlaid anyway."""


class SegmentWriter:
    """Writes the segments of one disk in one run. Repeating it finds what is written already."""

    def __init__(
        self, store: Store, keys: MetadataKeys, run: str, disk: str, snapshot: str, virtual_size: int
    ) -> None:
        """`snapshot` is the uuid of the VDI snapshot that the run was to read."""
        self._store = store
        self._keys = keys
        self._run = run
        self._disk = disk
        self._snapshot = snapshot
        self._virtual_size = virtual_size

    def write(
        self,
        plan: Plan,
        parent: DiskPoint | None,
        earlier: DiskPoint | None = None,
        committed: bytes = b"",
        alarm: Callable[[str], None] = lambda line: None,
    ) -> tuple[SegmentRef, ...]:
        """The segments of the new point: the parent's and the run's own, or all of them merged.

        `earlier` is the point that the run compared blocks with, `committed` the hashes of the packs that
        count (`PackList.of`); `alarm` is told of packs that nobody committed. Raises MissingBatches,
        DamagedObject, DisagreeingPacks, and RepositoryError when the parent was a larger disk.
        """
        inherited = self._inherited(plan, parent)
        if not plan.blocks:
            return inherited
        packs = PackList.of(self._store, self._disk, self._run, self._snapshot, plan, committed)
        packs.check_complete(plan)
        own = self._write_own(packs, plan, earlier, keep_holes=bool(inherited))
        if packs.strangers:
            alarm(_strangers(self._disk, packs.strangers))
        layers = layers_of(inherited + own)
        return inherited + own if len(layers) <= MAX_LAYERS else self._merge(layers)

    def _inherited(self, plan: Plan, parent: DiskPoint | None) -> tuple[SegmentRef, ...]:
        if parent is None or plan.blocks == block_count(plan.virtual_size):
            return ()
        if parent.virtual_size > plan.virtual_size:
            raise RepositoryError(
                f"disk {self._disk} has become smaller, which no disk does: it needs a full backup"
            )
        return parent.segments

    def _write_own(
        self, packs: PackList, plan: Plan, earlier: DiskPoint | None, *, keep_holes: bool
    ) -> tuple[SegmentRef, ...]:
        """Without a parent, a hole is the same as a block that is in no segment, so none is written."""
        unchanged = UnchangedBlocks(self._store, self._keys, earlier)
        written: list[SegmentRef] = []
        for number in range(-(-plan.batches // _BATCHES)):
            batches = range(number * _BATCHES, min((number + 1) * _BATCHES, plan.batches))
            unchanged.advance(int(plan.batch(batches[-1])[-1]) + 1)
            tails = packs.read(self._store, self._keys, plan, batches, unchanged.check)
            piece = unchanged.resolved(_piece_of(self._disk, self._run, self._snapshot, tails))
            if not keep_holes:
                piece = only_frames(piece)
            if len(piece.entries):
                written.append(self._put(number, piece, merged=False))
        return tuple(written)

    def _merge(self, layers: list[tuple[SegmentRef, ...]]) -> tuple[SegmentRef, ...]:
        """Memory: one segment a layer, and two of the merged ones."""
        written: list[SegmentRef] = []
        pieces = block_maps(layers, block_count(self._virtual_size), self._load)
        for number, piece in enumerate(_regrouped(pieces, SEGMENT_ENTRIES)):
            written.append(self._put(number, piece, merged=True))
        return tuple(written)

    def _load(self, segment: SegmentRef) -> BlockMap:
        return read_segment(self._store, self._keys, segment, self._virtual_size)

    def _put(self, number: int, piece: BlockMap, *, merged: bool) -> SegmentRef:
        key = segment_key(self._disk, self._run, number, merged=merged)
        data, reference = seal_segment(self._keys, key, piece)
        try:
            self._store.put_if_absent(key, data)
        except ObjectExists:
            return self._existing(key, piece)
        return reference

    def _existing(self, key: str, piece: BlockMap) -> SegmentRef:
        """What an earlier attempt wrote: the same blocks, if perhaps from other packs of the same batches."""
        data = get_within(self._store, key, SEGMENT.stored)
        written = open_segment(self._keys, key, data, self._virtual_size)
        if any(not np.array_equal(written.entries[name], piece.entries[name]) for name in ("block", "hash")):
            raise AlreadyWritten(f"{key} exists already and holds other blocks; the run must not be reused")
        return reference_of(key, data, written)


def _strangers(disk: str, keys: Sequence[str]) -> str:
    more = f" and {len(keys) - 1} more" if len(keys) > 1 else ""
    return (
        f"disk {disk}: nobody committed {keys[0]}{more}, which differs from the pack of its batch that was"
        " committed and counts; find out who can write to the store"
    )


def _piece_of(disk: str, run: str, snapshot: str, tails: list[PackTail]) -> BlockMap:
    """Of packs that `PackList.read` has checked: each has one group, of this disk, run and snapshot."""
    rows = np.zeros(len(tails), PACK_ROW)
    rows["run"] = rows["object_run"] = 1
    rows["snapshot"] = 2
    entries = np.zeros(sum(len(tail.entries) for tail in tails), SEGMENT_ENTRY)
    end = 0
    for row, tail in enumerate(tails):
        origin = tail.groups[0].origin
        rows[row]["batch"] = rows[row]["object_batch"] = tail.name.batch
        rows[row]["size"], rows[row]["generation"] = tail.size, origin.generation
        rows[row]["hash"] = np.frombuffer(tail.name.hash, np.uint8)
        rows[row]["data_key"] = np.frombuffer(origin.data_key, np.uint8)
        part = entries[end : end + len(tail.entries)]
        for name in ("block", "offset", "length", "flags", "hash"):
            part[name] = tail.entries[name]
        part["pack"] = row
        end += len(tail.entries)
    return BlockMap(PackTable((disk, run, snapshot), rows), entries)


def _regrouped(pieces: Iterator[BlockMap], size: int) -> Iterator[BlockMap]:
    """The same entries in pieces of exactly `size`, the last one smaller; never an empty one."""
    held: list[BlockMap] = []
    count = 0
    for piece in pieces:
        held.append(piece)
        count += len(piece.entries)
        while count >= size:
            whole = join(held)
            yield without_unused(BlockMap(whole.table, whole.entries[:size]))
            count -= size
            held = [BlockMap(whole.table, whole.entries[size:])]
    if count:
        yield without_unused(join(held))
