"""Walking over a disk's block map, window by window, and laying layers one over another.

    blocks      0 . . . . . . . . . . . . . . . . . . .
    layer 2         [ segment       ]      [ segment  ]      a later layer wins
    layer 1     [ segment  ][ segment   ][ segment    ]
    windows     |  |    |   |       ||   | |        | |      none crosses the end of a segment

So each layer has one segment in memory at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from workers.repository.point import SegmentRef
from workers.repository.segment import BlockMap, PackTable, join, only_frames

WINDOW_BLOCKS = 1 << 18
"""Blocks a window at most: 16 GiB of disk, as a segment of a full backup."""

Layer = tuple[SegmentRef, ...]
"""The segments that one run made of one disk: they ascend and do not overlap."""


class Part(NamedTuple):
    """What one segment says of a window: `entries` is an array of SEGMENT_ENTRY, ascending, never empty."""

    segment: SegmentRef
    table: PackTable
    entries: npt.NDArray[np.void]


class Window(NamedTuple):
    """Blocks `start .. end - 1` and the parts that tell of them, those of older layers first."""

    start: int
    end: int
    parts: list[Part]


def windows(
    layers: Sequence[Layer], blocks: int, read: Callable[[SegmentRef], BlockMap | None]
) -> Iterator[Window]:
    """Windows that cover blocks 0 .. `blocks` - 1, ascending, each block once.

    `read` gets each segment once, when the walk reaches it; a segment for which it returns None is taken
    for empty. Memory: one segment a layer; ours have 2^18 entries at most, 13 MiB, and a disk 17 layers.
    """
    cursors = [_Cursor(layer, read) for layer in layers]
    start = 0
    while start < blocks:
        end = min(start + WINDOW_BLOCKS, blocks, *(cursor.same_until(start) for cursor in cursors))
        parts = [part for cursor in cursors if (part := cursor.part(start, end)) is not None]
        yield Window(start, end, parts)
        start = end


def visible(window: Window) -> list[Part]:
    """The parts of a window without the entries that a later layer replaces."""
    if len(window.parts) < 2:
        return window.parts
    winner = np.empty(window.end - window.start, np.int16)
    places = [part.entries["block"] - np.uint64(window.start) for part in window.parts]
    for number, place in enumerate(places):
        winner[place] = number
    kept = [
        part._replace(entries=part.entries[winner[place] == number])
        for number, (part, place) in enumerate(zip(window.parts, places, strict=True))
    ]
    return [part for part in kept if len(part.entries)]


def block_maps(
    layers: Sequence[Layer], blocks: int, read: Callable[[SegmentRef], BlockMap]
) -> Iterator[BlockMap]:
    """What blocks 0 .. `blocks` - 1 are, in ascending pieces, never an empty one.

    Without holes: what is in no segment is zeros anyway.
    """
    for window in windows(layers, blocks, read):
        parts = [BlockMap(part.table, part.entries) for part in visible(window)]
        if parts:
            joined = join(parts)
            piece = only_frames(BlockMap(joined.table, joined.entries[np.argsort(joined.entries["block"])]))
            if len(piece.entries):
                yield piece


class _Cursor:
    """Where the walk is in one layer."""

    def __init__(self, layer: Layer, read: Callable[[SegmentRef], BlockMap | None]) -> None:
        self._layer = layer
        self._read = read
        self._index = 0
        self._loaded: BlockMap | None = None
        self._is_loaded = False

    def same_until(self, start: int) -> int:
        """The first block behind `start` where this layer goes on to another segment, or to none."""
        while self._index < len(self._layer) and self._layer[self._index].last < start:
            self._index += 1
            self._loaded, self._is_loaded = None, False
        if self._index == len(self._layer):
            return 1 << 62
        segment = self._layer[self._index]
        return segment.first if segment.first > start else segment.last + 1

    def part(self, start: int, end: int) -> Part | None:
        if self._index == len(self._layer) or self._layer[self._index].first >= end:
            return None
        segment = self._layer[self._index]
        if not self._is_loaded:
            self._loaded, self._is_loaded = self._read(segment), True
        if self._loaded is None:
            return None
        first, last = np.searchsorted(self._loaded.entries["block"], np.array([start, end], np.uint64))
        if first == last:
            return None
        return Part(segment, self._loaded.table, self._loaded.entries[first:last])
