"""Known hashes: what a worker compares blocks with, so that a re-baseline stores only what differs.

    known/<run>/<disk>/<number>      batches 512 number .. 512 number + 511 of the run's plan, a record each
    | record | record | record |     8,240 bytes each, so one ranged GET fetches a batch's

    record   | salt 32 | 512 x 16 hashes, sealed | tag 16 |

The hash at place i is the keyed hash that the batch's block i had in the earlier restore point; zeros where
that has no block. A record is sealed with a key made of the block-hash key, which workers hold, and bound to
run, disk, batch and the snapshot of the earlier point: any other does not open.
"""

from __future__ import annotations

import os

from workers.extents import BATCH_BLOCKS
from workers.repository.errors import DamagedObject
from workers.repository.frame import HASH_SIZE
from workers.repository.keys import WorkerKeys, derive
from workers.repository.naming import binding, known_key
from workers.repository.sealing import TAG_SIZE, SealBroken, mark, seal, unmark, unseal
from workers.repository.store import ObjectMissing, ObjectTruncated, Store

KNOWN_BATCHES = 512
"""Batches an object: 4 MiB of hashes for 16 GiB of disk."""

HASHES_SIZE = BATCH_BLOCKS * HASH_SIZE
_SALT_SIZE = 32
RECORD_SIZE = _SALT_SIZE + HASHES_SIZE + TAG_SIZE


class KnownHashes:
    """The known hashes of one disk in one run, fetched batch by batch. For any thread, one at a time."""

    def __init__(self, store: Store, keys: WorkerKeys, *, run: str, disk: str, snapshot: str) -> None:
        """`snapshot` is the uuid of the VDI snapshot that the earlier point was made from."""
        self._store = store
        self._keys = keys
        self._run = run
        self._disk = disk
        self._snapshot = snapshot
        self._absent = -1

    def of(self, batch: int) -> bytes:
        """16 bytes for each block of a batch, in order; nothing when nothing is known of these batches.

        Raises DamagedObject, StoreError.
        """
        number, place = divmod(batch, KNOWN_BATCHES)
        if number == self._absent:
            return b""
        key = known_key(self._run, self._disk, number)
        try:
            record = self._store.get_range(key, place * RECORD_SIZE, RECORD_SIZE)
        except ObjectMissing:
            self._absent = number
            return b""
        except ObjectTruncated as error:
            raise DamagedObject(key, str(error)) from error
        try:
            return _open_record(self._keys, record, self._run, self._disk, batch, self._snapshot)
        except SealBroken as error:
            raise DamagedObject(key, f"the hashes of batch {batch}: {error}") from error


def seal_record(keys: WorkerKeys, hashes: bytes, run: str, disk: str, batch: int, snapshot: str) -> bytes:
    """The record of a batch; `hashes` has `HASHES_SIZE` bytes."""
    salt = os.urandom(_SALT_SIZE)
    place = _place(keys, run, disk, batch, snapshot)
    if keys.encrypted:
        return salt + seal(derive(keys.hash_key, place, salt), 0, hashes, b"")
    return salt + mark(keys.hash_key, 0, hashes, place + b"\0" + salt)


def _open_record(keys: WorkerKeys, record: bytes, run: str, disk: str, batch: int, snapshot: str) -> bytes:
    salt, sealed = record[:_SALT_SIZE], record[_SALT_SIZE:]
    place = _place(keys, run, disk, batch, snapshot)
    if keys.encrypted:
        return unseal(derive(keys.hash_key, place, salt), 0, sealed, b"")
    return unmark(keys.hash_key, 0, sealed, place + b"\0" + salt)


def _place(keys: WorkerKeys, run: str, disk: str, batch: int, snapshot: str) -> bytes:
    return binding("known", keys.repository, run, disk, batch, snapshot)
