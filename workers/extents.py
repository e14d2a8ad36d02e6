"""Blocks, changed-block bitmaps, and the batches that a plan cuts them into.

A disk is a row of 64 KiB blocks; the last one is shorter when the disk's size says so. A changed-block
bitmap has one bit a block, the most significant bit of byte 0 being block 0 (XAPI
`VDI.list_changed_blocks`). A plan is such a bitmap and nothing else: batch `i` is *defined* as the set
bits of rank `512 i .. 512 (i + 1) - 1`, so messages and the ledger carry only numbers.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import zstandard

from workers.errors import CbtfleetError

BLOCK_SIZE = 65536
"""Bytes a block: the granularity of XenServer's changed-block tracking."""

BATCH_BLOCKS = 512
"""Blocks a batch: 32 MiB, the unit of commit and of one pack."""

MAX_DISK_SIZE = 64 << 40
"""Larger than any VDI that XAPI can make; a size beyond it is a broken peer, not a disk."""

_CHUNK = 8192
"""Bytes of bitmap (4 GiB of disk) between two entries of the rank index: a look-up unpacks one chunk."""


class BitmapError(CbtfleetError):
    """A changed-block bitmap that does not fit its disk."""


@dataclass(frozen=True)
class Extent:
    """`length` consecutive blocks from block `start`."""

    start: int
    length: int


def block_count(virtual_size: int) -> int:
    """How many blocks a disk of `virtual_size` bytes has."""
    return -(-virtual_size // BLOCK_SIZE)


def bitmap_length(virtual_size: int) -> int:
    """Bytes of the changed-block bitmap of a disk. Raises BitmapError for a size that no disk has."""
    if not 0 <= virtual_size <= MAX_DISK_SIZE:
        raise BitmapError(f"a disk of {virtual_size} bytes is beyond anything XAPI makes; not backed up")
    return -(-block_count(virtual_size) // 8)


def block_length(block: int, virtual_size: int) -> int:
    """Bytes of one block: 65536, or less for the last block of a disk."""
    return min(BLOCK_SIZE, virtual_size - block * BLOCK_SIZE)


def join_extents(blocks: npt.NDArray[np.int64]) -> list[Extent]:
    """Joins ascending block numbers into extents.

    blocks   3 4 5   9   11 12
    extents  (3, 3)  (9, 1)  (11, 2)
    """
    if not len(blocks):
        return []
    breaks = np.flatnonzero(np.diff(blocks) != 1) + 1
    starts = blocks[np.concatenate(([0], breaks))]
    lengths = np.diff(np.concatenate(([0], breaks, [len(blocks)])))
    return [Extent(int(start), int(length)) for start, length in zip(starts, lengths, strict=True)]


@dataclass(frozen=True)
class Plan:
    """The blocks of one disk that a backup reads.

    `bitmap` has exactly `ceil(block_count / 8)` bytes and no bit set beyond the disk's last block.
    Build it with `from_bitmap` or `full`.
    """

    bitmap: bytes = field(repr=False)
    virtual_size: int
    _ranks: npt.NDArray[np.int64] = field(repr=False, compare=False)

    @classmethod
    def from_bitmap(cls, bitmap: bytes, virtual_size: int) -> Plan:
        """A plan of the set bits; padding bits after the last block are cleared.

        Raises BitmapError when the bitmap is longer or shorter than the disk, or the disk is absurd.
        """
        blocks = block_count(virtual_size)
        expected = bitmap_length(virtual_size)
        if len(bitmap) != expected:
            raise BitmapError(
                f"the changed-block bitmap has {len(bitmap)} bytes, a disk of {virtual_size} bytes needs"
                f" {expected}; nothing was read from it"
            )
        if blocks % 8:
            bitmap = bitmap[:-1] + bytes([bitmap[-1] & (0xFF00 >> blocks % 8) & 0xFF])
        counts = np.bitwise_count(np.frombuffer(bitmap, np.uint8))
        starts = np.arange(0, len(counts), _CHUNK)
        sums = np.add.reduceat(counts, starts, dtype=np.int64) if blocks else np.zeros(0, np.int64)
        ranks = np.concatenate((np.zeros(1, np.int64), np.cumsum(sums, dtype=np.int64)))
        return cls(bitmap, virtual_size, ranks)

    @classmethod
    def full(cls, virtual_size: int) -> Plan:
        """A plan of every block."""
        return cls.from_bitmap(b"\xff" * bitmap_length(virtual_size), virtual_size)

    @classmethod
    def unpack(cls, packed: bytes, virtual_size: int) -> Plan:
        """The inverse of `pack`. Raises BitmapError when `packed` is not a bitmap of this disk."""
        expected = bitmap_length(virtual_size)
        try:
            # The length that the frame declares is what gets allocated, whatever max_output_size says.
            if (declared := zstandard.frame_content_size(packed)) != expected:
                raise BitmapError(
                    f"the stored changed-block bitmap has {declared} bytes, a disk of {virtual_size} bytes"
                    f" needs {expected}"
                )
            bitmap = zstandard.ZstdDecompressor().decompress(packed, allow_extra_data=False)
        except zstandard.ZstdError as error:
            raise BitmapError(f"the stored changed-block bitmap cannot be decompressed: {error}") from error
        return cls.from_bitmap(bitmap, virtual_size)

    def pack(self) -> bytes:
        """The bitmap, compressed: how the ledger and the repository keep it."""
        return zstandard.ZstdCompressor(level=3).compress(self.bitmap)

    @property
    def blocks(self) -> int:
        """How many blocks are to be read."""
        return int(self._ranks[-1])

    @property
    def batches(self) -> int:
        return -(-self.blocks // BATCH_BLOCKS)

    @property
    def changed_bytes(self) -> int:
        """Bytes of the blocks to be read; the last block of the disk counts with its true length."""
        last = block_count(self.virtual_size) - 1
        if last >= 0 and self.bitmap[last // 8] & (0x80 >> last % 8):
            return (self.blocks - 1) * BLOCK_SIZE + block_length(last, self.virtual_size)
        return self.blocks * BLOCK_SIZE

    def batch(self, number: int) -> npt.NDArray[np.int64]:
        """The ascending block numbers of one batch: `BATCH_BLOCKS` of them, fewer in the last one."""
        if not 0 <= number < self.batches:
            raise IndexError(f"batch {number} of a plan of {self.batches}")
        first = number * BATCH_BLOCKS
        last = min(first + BATCH_BLOCKS, self.blocks)
        found: list[npt.NDArray[np.int64]] = []
        chunk = int(np.searchsorted(self._ranks, first, side="right")) - 1
        while int(self._ranks[chunk]) < last:
            bits = np.unpackbits(np.frombuffer(self.bitmap[chunk * _CHUNK : (chunk + 1) * _CHUNK], np.uint8))
            set_bits = np.flatnonzero(bits)
            base = int(self._ranks[chunk])
            found.append(set_bits[max(first - base, 0) : last - base] + chunk * _CHUNK * 8)
            chunk += 1
        return np.concatenate(found)

    def batch_numbers(self) -> Iterator[int]:
        return iter(range(self.batches))
