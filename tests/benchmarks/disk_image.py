"""A disk to measure with: 40 % zero blocks in runs, the rest text-like and compressible to about 0.35."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

BLOCK = 65536
_PIECE = 32 << 20
_RUN = 16
"""Blocks in a row that are all zero or all not: 1 MiB, as file systems leave them."""


def write_image(path: Path, size: int, seed: int = 20261122, zero_share: float = 0.4) -> None:
    """Writes `size` bytes (a multiple of 1 MiB); the same seed gives the same bytes."""
    rng = np.random.default_rng(seed)
    words = rng.integers(97, 123, (4096, 8), dtype=np.uint8)
    words[:, 7] = 32
    odds = 1 / np.arange(1, len(words) + 1)
    odds /= odds.sum()
    with path.open("wb") as file:
        for start in range(0, size, _PIECE):
            piece = _text(rng, words, odds, min(_PIECE, size - start))
            runs = piece.reshape(-1, _RUN * BLOCK)
            runs[rng.random(len(runs)) < zero_share] = 0
            file.write(piece.tobytes())


def _text(
    rng: np.random.Generator, words: npt.NDArray[np.uint8], odds: npt.NDArray[np.float64], length: int
) -> npt.NDArray[np.uint8]:
    """Words by Zipf's law, 3 % of them noise: that makes zstd's level 1 reach 0.35."""
    chosen = words[rng.choice(len(words), length // 8, p=odds)]
    noise = rng.random(len(chosen)) < 0.03
    chosen[noise] = rng.integers(0, 256, (int(noise.sum()), 8), dtype=np.uint8)
    return chosen.reshape(-1)
