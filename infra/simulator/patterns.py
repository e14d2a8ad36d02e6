"""Block contents that cost no memory: a block is a kind and a seed, its bytes are made when they are read."""

from __future__ import annotations

import functools
from typing import Literal, NamedTuple

import numpy as np

BLOCK_SIZE = 65536
_TEMPLATE = 1 << 20
_MASK = (1 << 64) - 1


class Pattern(NamedTuple):
    """The contents of one block. Two patterns with different seeds never have the same bytes."""

    kind: Literal["text", "random"]
    seed: int

    def block(self) -> bytes:
        """Its 65536 bytes: a stamp, then a slice of a template."""
        template = _text_template() if self.kind == "text" else _random_template()
        start = mix(self.seed) % _TEMPLATE
        stamp = b"%-6b %016x " % (self.kind.encode(), self.seed & _MASK)
        return stamp + template[start + len(stamp) : start + BLOCK_SIZE]


def mix(number: int) -> int:
    """64 well-mixed bits of a number (splitmix64)."""
    number = (number + 0x9E3779B97F4A7C15) & _MASK
    number = ((number ^ (number >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    number = ((number ^ (number >> 27)) * 0x94D049BB133111EB) & _MASK
    return number ^ (number >> 31)


@functools.cache
def _random_template() -> bytes:
    return np.random.default_rng(1).bytes(_TEMPLATE + BLOCK_SIZE)


@functools.cache
def _text_template() -> bytes:
    """Words with a natural-looking frequency, numbers and lines: zstd makes about a third of it."""
    rng = np.random.default_rng(2)
    letters = np.frombuffer(b"etaoinshrdlucmfwypvbgkqjxz", np.uint8)
    words = [letters[rng.integers(0, 26, rng.integers(2, 10))].tobytes() for _ in range(4096)]
    wanted = _TEMPLATE + BLOCK_SIZE
    chosen = np.minimum(rng.zipf(1.25, wanted // 3), 10**6) % len(words)
    ends = rng.integers(0, 12, len(chosen))
    text = b"".join(
        words[word] + (b"\n" if end == 0 else b" ") for word, end in zip(chosen, ends, strict=True)
    )
    return (text * (1 + wanted // len(text)))[:wanted]
