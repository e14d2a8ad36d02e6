"""What a reader takes at most of each kind of object (docs/format.md, section 10), and reading within it.

Whoever can write to a bucket can put anything there: its size is looked at before a byte of it is fetched.
"""

from __future__ import annotations

from workers.repository.errors import DamagedObject
from workers.repository.store import ObjectTooLarge, Store

MIB = 1 << 20

CONFIG = 64 << 10
"""Stored bytes of `config` and of `keys/...`."""

PACK = (4 << 30) + 8 * MIB
INDEX = 4 * MIB
"""Plain bytes of a pack's index."""

SEGMENT = 128 * MIB
SEGMENT_SECTIONS = (256 * MIB, 64 * MIB)
"""Plain bytes of the pack table and of the entries."""

BITMAP = 132 * MIB
BITMAP_SECTION = 128 * MIB + 8

JSON = 8 * MIB
"""Stored bytes of points, supplements, run records and signers."""
JSON_SECTION = 64 * MIB

VM_METADATA = 65 * MIB
VM_METADATA_SECTION = 64 * MIB


def get_within(store: Store, key: str, limit: int) -> bytes:
    """The whole object. Raises DamagedObject when it is larger than `limit`, ObjectMissing."""
    try:
        return store.get(key, limit)
    except ObjectTooLarge as error:
        raise DamagedObject(key, f"it has {error.size} bytes, {error.limit} at most make sense") from error
