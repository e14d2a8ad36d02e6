"""The packs that a run has put for one disk, and their indexes, read back batch by batch."""

from __future__ import annotations

import struct
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt

from workers.extents import Plan
from workers.repository.errors import DamagedObject, MissingBatches
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

    def __init__(self, disk: str, run: str, rows: npt.NDArray[np.void]) -> None:
        self._disk = disk
        self._run = run
        self._rows = rows

    @classmethod
    def of(cls, store: Store, disk: str, run: str, plan: Plan) -> PackList:
        """Lists the store once. Raises MissingBatches when a batch of the plan has no pack."""
        rows = _listed(store, disk, run)
        rows = rows[rows["batch"] < plan.batches]
        missing = np.setdiff1d(np.arange(plan.batches), rows["batch"])
        if len(missing):
            raise MissingBatches(disk, run, missing.tolist())
        return cls(disk, run, rows)

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
        DamagedObject and is called from several threads. Of several packs of a batch any that is whole is
        right. Raises DamagedObject when none is, MissingBatches when they are gone.
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
        problem: DamagedObject | None = None
        for info in self.candidates(batch):
            try:
                tail = read_pack_tail(store, info, keys)
                if tail.virtual_size != plan.virtual_size:
                    raise DamagedObject(info.key, "it was made for a disk of another size")
                if not np.array_equal(tail.entries["block"], plan.batch(batch).astype(np.uint64)):
                    raise DamagedObject(info.key, "it does not hold the blocks of its batch")
                check(tail)
                return tail
            except DamagedObject as error:
                problem = problem or error
            except ObjectTruncated as error:
                problem = problem or DamagedObject(info.key, str(error))
            except ObjectMissing:
                continue  # deleted since the listing: as if it had not been there
        raise problem or MissingBatches(self._disk, self._run, [batch])


class StoredPacks:
    """Which packs of a disk are in the store, whole. Lists each run once: 28 bytes a pack."""

    def __init__(self, store: Store, disk: str) -> None:
        self._store = store
        self._disk = disk
        self._rows: dict[str, npt.NDArray[np.void]] = {}

    def has(self, table: PackTable) -> npt.NDArray[np.bool_]:
        """For each row of a pack table, whether there is such a pack of this size."""
        found = np.zeros(len(table), np.bool_)
        for number, run in enumerate(table.runs):
            if run not in self._rows:
                self._rows[run] = _listed(self._store, self._disk, run)
            of_run = np.flatnonzero(table.rows["run"] == number)
            rows = np.zeros(len(of_run), _ROW)
            for name in ("batch", "size", "hash"):
                rows[name] = table.rows[name][of_run]
            found[of_run] = np.isin(_as_bytes(rows), _as_bytes(self._rows[run]))
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
