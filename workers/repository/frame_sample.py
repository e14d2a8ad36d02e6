"""A random sample of frames that come in pieces, without keeping them all."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from workers.repository.segment import PackTable


class FrameSample:
    """`size` frames of all that are offered, each set of them equally likely.

    Every frame draws a number; those with the lowest are kept. Memory: about four times the sample, and the
    pack tables that it refers to.
    """

    def __init__(self, size: int, seed: int) -> None:
        self._size = size
        self._random = np.random.default_rng(seed)
        self._held: list[tuple[npt.NDArray[np.float64], PackTable, npt.NDArray[np.void]]] = []
        self._count = 0

    def offer(self, table: PackTable, frames: npt.NDArray[np.void]) -> None:
        """`frames` is an array of SEGMENT_ENTRY."""
        self._held.append((self._random.random(len(frames)), table, frames))
        self._count += len(frames)
        if self._count > 4 * self._size:
            self._drop()

    def chosen(self) -> Iterator[tuple[PackTable, npt.NDArray[np.void]]]:
        self._drop()
        return ((table, frames) for _, table, frames in self._held)

    def _drop(self) -> None:
        if self._count <= self._size:
            return
        drawn = np.concatenate([numbers for numbers, _, _ in self._held])
        highest = np.partition(drawn, self._size - 1)[self._size - 1]
        kept = [
            (numbers[low], table, frames[low])
            for numbers, table, frames in self._held
            if (low := numbers <= highest).any()
        ]
        self._held = kept
        self._count = sum(len(frames) for _, _, frames in kept)
