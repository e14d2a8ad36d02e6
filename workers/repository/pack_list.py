"""The packs that a run has put for one disk, and their indexes, read back batch by batch."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

import numpy as np
import numpy.typing as npt

from workers.extents import Plan
from workers.repository.errors import DamagedObject, MissingBatches
from workers.repository.index import PackTail, read_pack_tail
from workers.repository.keys import MetadataKeys
from workers.repository.naming import PackName, pack_prefix
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
        listed = bytearray()
        for info in store.list(pack_prefix(disk, run)):
            name = PackName.parse(info.key)
            if name is not None and name.batch < plan.batches:
                listed += _LISTED.pack(name.batch, info.size, name.hash)
        rows = np.frombuffer(bytes(listed), _ROW)
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

    def read(self, store: Store, keys: MetadataKeys, plan: Plan, chunk: int) -> Iterator[list[PackTail]]:
        """The tails of all batches in order, `chunk` batches at a time, one pack a batch.

        Each covers exactly the blocks that the plan gives its batch. Of several packs of a batch any that is
        whole is right. Raises DamagedObject when none is, MissingBatches when they are gone.
        """

        def tail_of(batch: int) -> PackTail:
            return self._read_batch(store, keys, plan, batch)

        with ThreadPoolExecutor(_THREADS, "pack-index") as threads:
            numbers = plan.batch_numbers()
            while batches := list(islice(numbers, chunk)):
                yield list(threads.map(tail_of, batches))

    def _read_batch(self, store: Store, keys: MetadataKeys, plan: Plan, batch: int) -> PackTail:
        problem: DamagedObject | None = None
        for info in self.candidates(batch):
            try:
                tail = read_pack_tail(store, info, keys)
                if tail.virtual_size != plan.virtual_size:
                    raise DamagedObject(info.key, "it was made for a disk of another size")
                if not np.array_equal(tail.entries["block"], plan.batch(batch).astype(np.uint64)):
                    raise DamagedObject(info.key, "it does not hold the blocks of its batch")
                return tail
            except DamagedObject as error:
                problem = problem or error
            except ObjectTruncated as error:
                problem = problem or DamagedObject(info.key, str(error))
            except ObjectMissing:
                continue  # deleted since the listing: as if it had not been there
        raise problem or MissingBatches(self._disk, self._run, [batch])
