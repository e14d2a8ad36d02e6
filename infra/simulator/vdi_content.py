"""What a virtual disk holds: sparse, copied on snapshot for the price of a dictionary."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Literal

from infra.simulator.patterns import BLOCK_SIZE, Pattern, mix
from infra.simulator.spec import Fill

Block = bytes | Pattern | None
"""65536 bytes, a pattern that stands for them, or None for zeros."""

_PIECE = 1 << 20


@dataclass(frozen=True)
class InitialContent:
    """The contents before any write, a function of seed and block number: 2 TiB of it cost nothing."""

    seed: int
    fill: Fill
    size: int

    def block(self, number: int) -> Block:
        length = min(BLOCK_SIZE, self.size - number * BLOCK_SIZE)
        if length <= 0 or self.fill == "zero":
            return None
        seed = mix(self.seed ^ mix(number))
        chance = seed % 100
        if self.fill == "mixed" and chance < 40:
            return None
        text = self.fill == "text" or (self.fill == "mixed" and chance < 85)
        pattern = Pattern("text" if text else "random", seed)
        return pattern if length == BLOCK_SIZE else pattern.block()[:length].ljust(BLOCK_SIZE, b"\0")


@dataclass
class Content:
    """A disk's bytes. `size` may be any number; bytes beyond what was written are zero."""

    size: int
    initial: InitialContent
    _written: dict[int, Block] = field(default_factory=dict)

    @classmethod
    def new(cls, size: int, fill: Fill = "zero", seed: int = 0) -> Content:
        return cls(size, InitialContent(seed, fill, size))

    @property
    def blocks(self) -> int:
        return -(-self.size // BLOCK_SIZE)

    def copy(self) -> Content:
        """The same bytes, independent from now on: blocks are immutable and shared."""
        return Content(self.size, self.initial, dict(self._written))

    def block(self, number: int) -> bytes | None:
        """The 65536 bytes of a block (zeros after the disk's end), or None when all are zero."""
        block = self._written[number] if number in self._written else self.initial.block(number)
        return block.block() if isinstance(block, Pattern) else block

    def read(self, offset: int, length: int) -> bytearray:
        """`length` bytes from `offset`. Raises ValueError beyond the disk's end."""
        if offset < 0 or length < 0 or offset + length > self.size:
            raise ValueError(f"{length} bytes at {offset} of a disk of {self.size}")
        data = bytearray(length)
        position = 0
        while position < length:
            number, start = divmod(offset + position, BLOCK_SIZE)
            step = min(BLOCK_SIZE - start, length - position)
            block = self.block(number)
            if block is not None:
                data[position : position + step] = (
                    block if step == BLOCK_SIZE else block[start : start + step]
                )
            position += step
        return data

    def write(self, offset: int, data: bytes) -> list[int]:
        """Writes bytes; returns the blocks that were touched. Raises ValueError beyond the disk's end."""
        if offset < 0 or offset + len(data) > self.size:
            raise ValueError(f"{len(data)} bytes at {offset} of a disk of {self.size}")
        touched = []
        position = 0
        while position < len(data):
            number, start = divmod(offset + position, BLOCK_SIZE)
            step = min(BLOCK_SIZE - start, len(data) - position)
            block = bytearray(self.block(number) or BLOCK_SIZE)
            block[start : start + step] = data[position : position + step]
            self._written[number] = bytes(block)
            touched.append(number)
            position += step
        return touched

    def write_blocks(
        self, numbers: Iterable[int], kind: Literal["random", "text", "zero"], seed: int
    ) -> list[int]:
        """Fills whole blocks, each with bytes of its own; returns their numbers."""
        touched = list(numbers)
        for number in touched:
            if not 0 <= number < self.blocks:
                raise ValueError(f"block {number} of a disk of {self.blocks} blocks")
            if kind == "zero":
                self._written[number] = None
                continue
            pattern = Pattern(kind, mix(mix(seed) ^ number))
            length = min(BLOCK_SIZE, self.size - number * BLOCK_SIZE)
            whole = length == BLOCK_SIZE
            self._written[number] = pattern if whole else pattern.block()[:length].ljust(BLOCK_SIZE, b"\0")
        return touched

    def random_blocks(self, count: int, seed: int) -> list[int]:
        """`count` different block numbers (all of them, if there are not that many), ascending."""
        return sorted(random.Random(seed).sample(range(self.blocks), min(count, self.blocks)))

    def grow(self, size: int) -> None:
        """The new region reads zero. Raises ValueError for a smaller size: VHDs cannot shrink."""
        if size < self.size:
            raise ValueError(f"a disk of {self.size} bytes cannot shrink to {size}")
        self.size = size

    def pieces(self) -> Iterator[bytearray]:
        """All of it, in order, in pieces of 1 MiB."""
        for offset in range(0, self.size, _PIECE):
            yield self.read(offset, min(_PIECE, self.size - offset))

    def sha256(self) -> str:
        digest = hashlib.sha256()
        for piece in self.pieces():
            digest.update(piece)
        return digest.hexdigest()
