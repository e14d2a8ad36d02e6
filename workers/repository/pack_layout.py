"""Where things lie in a pack.

0                16                          frames_end        + index_length     + 184
| header 16      | frame | frame | ...       | index           | footer 184       |
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

import numpy as np

from workers.extents import BATCH_BLOCKS
from workers.repository.frame import HASH_SIZE, MAX_FRAME
from workers.repository.keys import WRAPPED_SIZE
from workers.repository.naming import binding
from workers.repository.sealing import TAG_SIZE

VERSION = 1
ENCRYPTED = 1
"""The flag, in header and footer, of a pack whose frames and index are sealed."""

HEADER = struct.Struct("<8sHHI")
HEADER_MAGIC = b"CBTFPACK"
_FOOTER_FACTS = struct.Struct("<QIHH8s")
_FOOTER_MAGIC = b"CBTFTAIL"
FOOTER_SIZE = 2 * WRAPPED_SIZE + _FOOTER_FACTS.size
INDEX_HEADER = struct.Struct("<QII")

INDEX_COLUMNS = (("block", "<u8", 8), ("length", "<u4", 4), ("flags", "u1", 1))
"""Name, type and bytes of the index's columns, in their order; the hashes follow them."""

MAX_ENTRIES = 65536
"""More entries than this in one pack are a damaged pack: ours have 512."""

MAX_INDEX = INDEX_HEADER.size + MAX_ENTRIES * (8 + 4 + 1 + HASH_SIZE)
"""Bytes of the largest plain index."""

PACK_CAPACITY = (
    HEADER.size + BATCH_BLOCKS * MAX_FRAME + INDEX_HEADER.size + BATCH_BLOCKS * (8 + 4 + 1 + HASH_SIZE)
) + (4096 + TAG_SIZE + FOOTER_SIZE)
"""Bytes of the largest pack of 512 blocks, with room for an index that zstd makes longer."""

ENTRY = np.dtype(
    [("block", "<u8"), ("offset", "<u8"), ("length", "<u4"), ("flags", "u1"), ("hash", "u1", (HASH_SIZE,))]
)
"""One block of a pack: its number, its frame's place in the object, its `Kind`, the keyed hash of its plain
bytes (16 bytes, zeros for a hole)."""


class NotAFooter(Exception):
    """These bytes are not a pack's footer. Callers know the object and say so."""


@dataclass(frozen=True)
class Footer:
    """The last 184 bytes: both wrapped keys, and where the index is."""

    data_key: bytes = field(repr=False)
    index_key: bytes = field(repr=False)
    frames_end: int
    index_length: int
    encrypted: bool

    def encode(self) -> bytes:
        flags = ENCRYPTED if self.encrypted else 0
        facts = _FOOTER_FACTS.pack(self.frames_end, self.index_length, VERSION, flags, _FOOTER_MAGIC)
        return self.data_key + self.index_key + facts

    @classmethod
    def decode(cls, data: bytes, object_size: int) -> Footer:
        """Raises NotAFooter when `data` (184 bytes) cannot end an object of `object_size` bytes."""
        end, length, version, flags, magic = _FOOTER_FACTS.unpack_from(data, 2 * WRAPPED_SIZE)
        if magic != _FOOTER_MAGIC:
            raise NotAFooter("it does not end like a pack: cut, or something else")
        if version != VERSION or flags & ~ENCRYPTED:
            raise NotAFooter(f"version {version}, flags {flags}: this program reads version {VERSION} only")
        if (
            length > MAX_INDEX + TAG_SIZE + 65536
            or not HEADER.size <= end <= MAX_ENTRIES * MAX_FRAME + HEADER.size
        ):
            raise NotAFooter("its footer names impossible sizes")
        if end + length + FOOTER_SIZE != object_size:
            raise NotAFooter(f"it has {object_size} bytes, its footer says {end + length + FOOTER_SIZE}")
        return cls(
            data[:WRAPPED_SIZE], data[WRAPPED_SIZE : 2 * WRAPPED_SIZE], end, length, bool(flags & ENCRYPTED)
        )


def header(encrypted: bool) -> bytes:
    return HEADER.pack(HEADER_MAGIC, VERSION, ENCRYPTED if encrypted else 0, 0)


def index_key_info(repository: str, disk: str, run: str, batch: int) -> bytes:
    return binding("index key", repository, disk, run, batch)


def index_associated(repository: str, disk: str, run: str, batch: int, footer: bytes) -> bytes:
    return binding("index", repository, disk, run, batch) + b"\0" + footer
