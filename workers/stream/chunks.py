"""Chunks: consecutive blocks of one batch in one reused buffer, and the reads that fill it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from workers.extents import BLOCK_SIZE, block_length, join_extents
from workers.nbd import Read

CHUNK_SIZE = 4 << 20
READ_SIZE = 1 << 20
"""Bytes a read at most: makes 44 bytes of headers nothing, and still fills the window in small steps."""

_BLOCKS = CHUNK_SIZE // BLOCK_SIZE


@dataclass(frozen=True)
class Piece:
    """What a chunk will hold: consecutive blocks of one batch's list."""

    batch: int
    blocks: npt.NDArray[np.int64]
    ends_batch: bool


def pieces_of(batch: int, blocks: npt.NDArray[np.int64]) -> Iterator[Piece]:
    """A batch's list of blocks, cut into chunks."""
    for start in range(0, len(blocks), _BLOCKS):
        end = start + _BLOCKS
        yield Piece(batch, blocks[start:end], end >= len(blocks))


@dataclass
class Chunk:
    """A piece on its way: `length` bytes of `buffer`, complete when no read is `awaited` any more."""

    buffer: memoryview
    batch: int = 0
    blocks: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    length: int = 0
    awaited: int = 0
    ends_batch: bool = False

    def take(self, piece: Piece, virtual_size: int) -> list[Read]:
        """Makes this the piece's chunk; returns the reads of its extents, one behind the other in the buffer.

        blocks  7 8 9    30    41 42
        buffer  [7 8 9][30][41 42]
        """
        self.batch, self.blocks, self.ends_batch = piece.batch, piece.blocks, piece.ends_batch
        reads = []
        filled = 0
        for extent in join_extents(self.blocks):
            last = extent.start + extent.length - 1
            offset = extent.start * BLOCK_SIZE
            end = last * BLOCK_SIZE + block_length(last, virtual_size)
            while offset < end:
                length = min(READ_SIZE, end - offset)
                reads.append(Read(offset, self.buffer[filled : filled + length]))
                offset += length
                filled += length
        self.length = filled
        self.awaited = len(reads)
        return reads
