"""Which ranged GETs fetch a set of frames: neighbours in a pack are joined.

    pack    | frame |xx| frame |........ more than GAP ........| frame | frame |
    spans   [       span       ]                               [     span      ]

A request costs about as much as reading some hundred KiB more, so a small gap is read and thrown away.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from workers.repository.errors import DamagedObject
from workers.repository.frame import FrameReader, Kind
from workers.repository.keys import PrivateKeys
from workers.repository.segment import PackTable
from workers.repository.store import Store

GAP = 256 << 10
"""Bytes between two frames that are rather read than asked around."""

SPAN = 8 << 20
"""Bytes a span at most (or one frame): what each thread holds in memory."""


@dataclass(frozen=True)
class Span:
    """`length` bytes from `start` of the pack at row `pack` of `table`, and the frames in them.

    `entries` is an array of SEGMENT_ENTRY, ascending by offset, without holes.
    """

    table: PackTable = field(repr=False)
    pack: int
    start: int
    length: int
    entries: npt.NDArray[np.void] = field(repr=False)


def without_holes(entries: npt.NDArray[np.void]) -> npt.NDArray[np.void]:
    """The entries that have a frame."""
    frames: npt.NDArray[np.void] = entries[entries["flags"] != Kind.HOLE]
    return frames


def join_frames(table: PackTable, frames: npt.NDArray[np.void]) -> Iterator[Span]:
    """Spans that hold each of `frames` (an array of SEGMENT_ENTRY in any order, without holes) once."""
    frames = frames[np.lexsort((frames["offset"], frames["pack"]))]
    starts = frames["offset"].astype(np.int64)
    ends = starts + frames["length"]
    apart = (frames["pack"][1:] != frames["pack"][:-1]) | (starts[1:] - ends[:-1] > GAP)
    edges = [0, *(np.flatnonzero(apart) + 1).tolist(), len(frames)]
    for first, last in pairwise(edges):
        while first < last:
            within = int(np.searchsorted(ends[first:last], starts[first] + SPAN, side="right"))
            cut = first + max(within, 1)
            start, end = int(starts[first]), int(ends[cut - 1])
            yield Span(table, int(frames["pack"][first]), start, end - start, frames[first:cut])
            first = cut


def open_span(store: Store, keys: PrivateKeys, span: Span) -> Iterator[tuple[int, bytes | DamagedObject]]:
    """Each block of a span, and its plain bytes, tag and hash checked, or what is wrong with its frame.

    Raises DamagedObject when the pack's key does not open, ObjectMissing, ObjectTruncated.
    """
    name = span.table.name(span.pack)
    reader = FrameReader(keys, name.key, span.table.origin(span.pack))
    data = memoryview(store.get_range(name.key, span.start, span.length))
    entries = span.entries
    columns = (
        entries["block"].tolist(),
        (entries["offset"].astype(np.int64) - span.start).tolist(),
        entries["length"].tolist(),
        entries["flags"].tolist(),
        np.ascontiguousarray(entries["hash"]).view("V16").ravel().tolist(),
        entries["moved"].tolist(),
    )
    for block, start, length, kind, block_hash, moved in zip(*columns, strict=True):
        try:
            yield block, reader.open(block, kind, block_hash, data[start : start + length], moved)
        except DamagedObject as error:
            yield block, error
