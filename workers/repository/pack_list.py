"""The packs that a run has put for one disk, and their indexes, read back batch by batch.

A batch may have several: a worker was taken for dead and was not, or somebody who can write to the store
has put one. The one whose hash was committed counts. Where that is not known, as Redis forgot it, they must
agree: none is ever chosen by its name.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt

from workers.extents import Plan
from workers.repository.errors import DamagedObject, DisagreeingPacks, MissingBatches
from workers.repository.frame import HASH_SIZE
from workers.repository.index import PackTail, read_pack_tail
from workers.repository.keys import MetadataKeys
from workers.repository.naming import PackName, pack_prefix
from workers.repository.segment import PackTable
from workers.repository.store import ObjectInfo, ObjectMissing, ObjectTruncated, Store

_THREADS = 8
"""Each ranged GET is a wait for the store; eight at a time keep 512 packs to about a second."""

_LISTED = struct.Struct("<IQ16s")
_ROW = np.dtype([("batch", "<u4"), ("size", "<u8"), ("hash", "u1", (16,))])


class PackList:
    """Which packs there are: 28 bytes each, because a disk of 64 TiB has two million of them."""

    def __init__(
        self, disk: str, run: str, snapshot: str, rows: npt.NDArray[np.void], committed: bytes = b""
    ) -> None:
        self._disk = disk
        self._run = run
        self._snapshot = snapshot
        self._rows = rows
        self._committed = committed
        self.strangers: list[str] = []
        """The packs that nobody committed and that disagree with the one that was, as far as was read."""

    @classmethod
    def of(
        cls, store: Store, disk: str, run: str, snapshot: str, plan: Plan, committed: bytes = b""
    ) -> PackList:
        """Lists the store once. `snapshot` is the VDI snapshot that was to be read.

        `committed` has the hash of each batch's pack, 16 bytes; zeros, or no more bytes, where it is not
        known.
        """
        rows = _listed(store, disk, run)
        return cls(disk, run, snapshot, rows[rows["batch"] < plan.batches], committed)

    def check_complete(self, plan: Plan) -> None:
        """Raises MissingBatches when a batch of the plan has no pack."""
        missing = np.setdiff1d(np.arange(plan.batches), self._rows["batch"])
        if len(missing):
            raise MissingBatches(self._disk, self._run, missing.tolist())

    def sizes(self) -> dict[int, int]:
        """Bytes of a pack of each batch that has one."""
        return dict(zip(self._rows["batch"].tolist(), self._rows["size"].tolist(), strict=True))

    def candidates(self, batch: int) -> list[ObjectInfo]:
        """The packs of one batch; more than one when a worker was taken for dead and was not."""
        first, last = np.searchsorted(self._rows["batch"], (batch, batch + 1))
        return [
            ObjectInfo(
                PackName(self._disk, self._run, batch, row["hash"].tobytes()).key,
                int(row["size"]),
            )
            for row in self._rows[first:last]
        ]

    def read(
        self,
        store: Store,
        keys: MetadataKeys,
        plan: Plan,
        batches: range,
        check: Callable[[PackTail], None],
    ) -> list[PackTail]:
        """The tails of these batches in order, one pack a batch.

        Each covers exactly the blocks that the plan gives its batch, and passed `check`, which raises
        DamagedObject and is called from several threads. Raises DamagedObject when the pack of a batch is
        damaged, MissingBatches when it is gone, DisagreeingPacks.
        """

        def tail_of(batch: int) -> PackTail:
            return self._read_batch(store, keys, plan, batch, check)

        with ThreadPoolExecutor(_THREADS, "pack-index") as threads:
            return list(threads.map(tail_of, batches))

    def _read_batch(
        self,
        store: Store,
        keys: MetadataKeys,
        plan: Plan,
        batch: int,
        check: Callable[[PackTail], None],
    ) -> PackTail:
        committed = self._committed[HASH_SIZE * batch : HASH_SIZE * (batch + 1)]
        known = any(committed)
        whole: list[PackTail] = []
        broken: list[DamagedObject] = []
        chosen: PackTail | DamagedObject | None = None
        for info in self.candidates(batch):
            try:
                found: PackTail | DamagedObject = self._read_pack(store, keys, plan, batch, info, check)
            except ObjectMissing:
                continue  # deleted since the listing: as if it had not been there
            if isinstance(found, DamagedObject):
                broken.append(found)
            else:
                whole.append(found)
            if known and bytes.fromhex(info.key[-2 * HASH_SIZE :]) == committed:
                chosen = found
        if not known:
            chosen = whole[0] if whole else next(iter(broken), None)
            if any(not _agree(whole[0], other) for other in whole[1:]):
                raise DisagreeingPacks(self._disk, self._run, batch)
        if chosen is None:
            raise MissingBatches(self._disk, self._run, [batch])
        if isinstance(chosen, DamagedObject):
            raise chosen
        self.strangers += [error.object for error in broken]
        self.strangers += [other.name.key for other in whole if not _agree(chosen, other)]
        return chosen

    def disagreeing(self, store: Store, keys: MetadataKeys, plan: Plan) -> Iterator[int]:
        """The batches with several packs that are not all whole and of the same content."""
        batches, counts = np.unique(self._rows["batch"], return_counts=True)
        for batch in batches[counts > 1].tolist():
            found = [
                self._read_pack(store, keys, plan, batch, info, lambda tail: None)
                for info in self.candidates(batch)
            ]
            whole = [each for each in found if isinstance(each, PackTail)]
            if len(whole) < len(found) or not all(_agree(whole[0], other) for other in whole):
                yield batch

    def _read_pack(
        self,
        store: Store,
        keys: MetadataKeys,
        plan: Plan,
        batch: int,
        info: ObjectInfo,
        check: Callable[[PackTail], None],
    ) -> PackTail | DamagedObject:
        """Raises ObjectMissing."""
        try:
            tail = read_pack_tail(store, info, keys)
            own = tail.own
            if own is None:
                return DamagedObject(info.key, "its frames were not written for its batch")
            if own.origin.snapshot != self._snapshot:
                return DamagedObject(info.key, "it was read from another snapshot than planned")
            if own.virtual_size != plan.virtual_size:
                return DamagedObject(info.key, "it was made for a disk of another size")
            if not np.array_equal(tail.entries["block"], plan.batch(batch).astype(np.uint64)):
                return DamagedObject(info.key, "it does not hold the blocks of its batch")
            check(tail)
        except DamagedObject as error:
            return error
        except ObjectTruncated as error:
            return DamagedObject(info.key, str(error))
        return tail


def _agree(one: PackTail, other: PackTail) -> bool:
    """Whether they hold the same blocks: by the keyed hashes, which a hole has zeros for."""
    return all(np.array_equal(one.entries[name], other.entries[name]) for name in ("block", "hash"))


class StoredPacks:
    """Which packs are in the store, whole. Lists each run of a disk once: 28 bytes a pack."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._rows: dict[tuple[str, str], npt.NDArray[np.void]] = {}

    def has(self, table: PackTable) -> npt.NDArray[np.bool_]:
        """For each row of a pack table, whether there is such a pack of this size."""
        found = np.zeros(len(table), np.bool_)
        rows = table.rows
        folders = rows["object_disk"].astype(np.uint64) << np.uint64(32) | rows["object_run"]
        for folder in np.unique(folders).tolist():
            place = (table.names[folder >> 32], table.names[folder & 0xFFFFFFFF])
            if place not in self._rows:
                self._rows[place] = _listed(self._store, *place)
            there = np.flatnonzero(folders == folder)
            wanted = np.zeros(len(there), _ROW)
            for name, column in (("batch", "object_batch"), ("size", "size"), ("hash", "hash")):
                wanted[name] = rows[column][there]
            found[there] = np.isin(_as_bytes(wanted), _as_bytes(self._rows[place]))
        return found


def _listed(store: Store, disk: str, run: str) -> npt.NDArray[np.void]:
    """All packs of a run: an array of _ROW, ascending by batch."""
    listed = bytearray()
    for info in store.list(pack_prefix(disk, run)):
        name = PackName.parse(info.key)
        if name is not None:
            listed += _LISTED.pack(name.batch, info.size, name.hash)
    return np.frombuffer(bytes(listed), _ROW)


def _as_bytes(rows: npt.NDArray[np.void]) -> npt.NDArray[np.void]:
    return np.ascontiguousarray(rows).view(f"V{_ROW.itemsize}")
