"""The blocks of an earlier restore point, beside those of a run that compares with it.

      written by the scheduler              known hashes              read by a worker
    earlier point's segments  ->  known/<run>/<disk>/<number>  ->  equal: an entry UNCHANGED, no frame
              |                                                                  |
              +------------> its entry of the same block and hash  <-------------+
                               goes into the run's own segment

So the segments of a re-baseline refer to packs of earlier runs, as merged ones do, and to no layer below.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from workers.extents import Plan, block_count
from workers.repository.errors import DamagedObject
from workers.repository.frame import HASH_SIZE, Kind
from workers.repository.index import PackTail
from workers.repository.keys import MetadataKeys
from workers.repository.known_hashes import HASHES_SIZE, KNOWN_BATCHES, seal_record
from workers.repository.naming import known_key
from workers.repository.overlay import block_maps
from workers.repository.pack_list import StoredPacks
from workers.repository.point import DiskPoint, SegmentRef
from workers.repository.segment import BlockMap, join, read_segment, without_unused
from workers.repository.store import ObjectExists, ObjectMissing, Store


class EarlierBlocks:
    """The block map of a point, asked for in ascending pieces. Memory: a segment a layer, and two windows."""

    def __init__(self, store: Store, keys: MetadataKeys, earlier: DiskPoint) -> None:
        def read(segment: SegmentRef) -> BlockMap:
            return read_segment(store, keys, segment, earlier.virtual_size)

        self._maps = block_maps(earlier.layers(), block_count(earlier.virtual_size), read)
        self._held: list[BlockMap] = []

    def below(self, end: int) -> BlockMap | None:
        """What was not asked for yet of the blocks below `end`, without holes; None when there is nothing.

        Raises DamagedObject, ObjectMissing.
        """
        while not self._held or int(self._held[-1].entries["block"][-1]) < end - 1:
            piece = next(self._maps, None)
            if piece is None:
                break
            self._held.append(piece)
        if not self._held or int(self._held[0].entries["block"][0]) >= end:
            return None
        joined = join(self._held)
        cut = int(np.searchsorted(joined.entries["block"], np.uint64(end)))
        rest = BlockMap(joined.table, joined.entries[cut:])
        self._held = [without_unused(rest)] if len(rest.entries) else []
        return without_unused(BlockMap(joined.table, joined.entries[:cut]))


def write_known_hashes(store: Store, keys: MetadataKeys, run: str, plan: Plan, earlier: DiskPoint) -> int:
    """Writes the known hashes for a run that reads the blocks of `plan`; returns of how many blocks.

    Blocks whose pack is missing, or has another size than it should, are not known: they are stored again.
    Again is fine, the first ones stay. Raises DamagedObject, ObjectMissing, StoreError; what has been written
    by then is of no harm.
    """
    blocks = EarlierBlocks(store, keys, earlier)
    packs = StoredPacks(store)
    known = 0
    for number in range(-(-plan.batches // KNOWN_BATCHES)):
        batches = range(number * KNOWN_BATCHES, min((number + 1) * KNOWN_BATCHES, plan.batches))
        piece = blocks.below(int(plan.batch(batches[-1])[-1]) + 1)
        entries = piece.entries[packs.has(piece.table)[piece.entries["pack"]]] if piece else None
        if entries is None or not len(entries):
            continue
        records = []
        for batch in batches:
            wanted = plan.batch(batch).astype(np.uint64)
            hashes = np.zeros((HASHES_SIZE // HASH_SIZE, HASH_SIZE), np.uint8)
            at, found = _find(entries, wanted)
            hashes[: len(wanted)][found] = entries["hash"][at[found]]
            known += int(np.count_nonzero(found))
            record = seal_record(keys.worker, hashes.tobytes(), run, earlier.vdi, batch, earlier.snapshot)
            records.append(record)
        try:
            store.put_if_absent(known_key(run, earlier.vdi, number), b"".join(records))
        except ObjectExists:
            continue
    return known


class UnchangedBlocks:
    """Where the blocks are that packs call unchanged: proves each of them against the earlier point.

    Used with ascending chunks of a run's batches. Packs may be checked by several threads at once.
    """

    def __init__(self, store: Store, keys: MetadataKeys, earlier: DiskPoint | None) -> None:
        """Without `earlier`, no pack may call a block unchanged."""
        self._blocks = None if earlier is None else EarlierBlocks(store, keys, earlier)
        self._piece: BlockMap | None = None
        self._trouble = "" if earlier else "there is no restore point that it was compared with"

    def advance(self, end: int) -> None:
        """To the blocks below `end`, from those of the last call."""
        self._piece = None
        if self._blocks is None:
            return
        try:
            self._piece = self._blocks.below(end)
        except (DamagedObject, ObjectMissing) as error:  # matters only if a pack needs it
            self._blocks, self._trouble = None, str(error)

    def check(self, tail: PackTail) -> None:
        """Raises DamagedObject unless the earlier point has each unchanged block, with this hash."""
        marked = tail.entries[tail.entries["flags"] == Kind.UNCHANGED]
        if not len(marked):
            return
        if self._piece is None:
            why = self._trouble or "the restore point that it was compared with does not have them"
            raise DamagedObject(tail.name.key, f"it calls blocks unchanged, but {why}")
        entries = self._piece.entries
        at, same = _find(entries, marked["block"])
        same &= (entries["hash"][at] == marked["hash"]).all(axis=1)
        if not same.all():
            why = "it calls a block unchanged that the restore point it was compared with has not"
            raise DamagedObject(tail.name.key, why, int(marked["block"][~same][0]))

    def resolved(self, piece: BlockMap) -> BlockMap:
        """`piece`, of checked packs, with the earlier point's entries in place of the unchanged ones."""
        marked = np.flatnonzero(piece.entries["flags"] == Kind.UNCHANGED)
        if not len(marked) or self._piece is None:
            return piece
        joined = join([piece, self._piece])
        own, earlier = joined.entries[: len(piece.entries)], joined.entries[len(piece.entries) :]
        at, _ = _find(earlier, own["block"][marked])
        own[marked] = earlier[at]
        return without_unused(BlockMap(joined.table, own))


def _find(
    entries: npt.NDArray[np.void], blocks: npt.NDArray[np.uint64]
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.bool_]]:
    """For each of `blocks` its row in `entries` (which are not none), and whether it has one."""
    at = np.minimum(np.searchsorted(entries["block"], blocks), len(entries) - 1)
    return at, np.asarray(entries["block"][at] == blocks, np.bool_)
