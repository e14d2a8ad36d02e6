"""What a reader takes at most of each kind of object (docs/format.md, section 10), and reading within it.

Whoever can write to a bucket can put anything there: its size is looked at before a byte of it is fetched.
"""

from __future__ import annotations

from typing import NamedTuple

from workers.repository.errors import DamagedObject
from workers.repository.store import ObjectTooLarge, Store

MIB = 1 << 20

CONFIG = 64 << 10
"""Stored bytes of `config` and of `keys/...`."""

PACK = (4 << 30) + 8 * MIB
"""Stored bytes of a pack."""

INDEX = 4 * MIB
"""Plain bytes of a pack's index."""


class Limit(NamedTuple):
    """Of one kind of small object: bytes in the store, and of each section once it is decompressed."""

    stored: int
    sections: tuple[int, ...]


SEGMENT = Limit(128 * MIB, (256 * MIB, 64 * MIB))
BITMAP = Limit(132 * MIB, (128 * MIB + 8,))
JSON = Limit(8 * MIB, (64 * MIB,))
"""Points, supplements, run records and signers."""
VM_METADATA = Limit(65 * MIB, (64 * MIB,))


def get_within(store: Store, key: str, limit: int) -> bytes:
    """The whole object. Raises DamagedObject when it is larger than `limit` bytes, ObjectMissing."""
    try:
        return store.get(key, limit)
    except ObjectTooLarge as error:
        raise DamagedObject(key, f"it has {error.size} bytes, {error.limit} at most make sense") from error
