"""Joining frames into ranged GETs: each frame once, small gaps bridged, no span too long."""

from __future__ import annotations

import numpy as np
import pytest

from workers.repository.segment import PACK_ROW, SEGMENT_ENTRY, PackTable
from workers.repository.spans import GAP, SPAN, join_frames

TABLE = PackTable(("run",), np.zeros(3, PACK_ROW))


def spans_of(*frames: tuple[int, int, int]) -> list[tuple[int, int, int, int]]:
    """Of (pack, offset, length): what is fetched, as (pack, start, length, number of frames)."""
    entries = np.zeros(len(frames), SEGMENT_ENTRY)
    for entry, (pack, offset, length) in zip(entries, frames, strict=True):
        entry["pack"], entry["offset"], entry["length"] = pack, offset, length
    return [(span.pack, span.start, span.length, len(span.entries)) for span in join_frames(TABLE, entries)]


@pytest.mark.parametrize(
    ("frames", "expected"),
    [
        ([], []),
        ([(0, 16, 100)], [(0, 16, 100, 1)]),
        ([(0, 16, 100), (0, 116, 50)], [(0, 16, 150, 2)]),
        ([(0, 116, 50), (0, 16, 100)], [(0, 16, 150, 2)]),
        ([(0, 16, 4), (1, 20, 4)], [(0, 16, 4, 1), (1, 20, 4, 1)]),
        ([(0, 16, 4), (0, 20 + GAP, 4)], [(0, 16, GAP + 8, 2)]),
        ([(0, 16, 4), (0, 21 + GAP, 4)], [(0, 16, 4, 1), (0, 21 + GAP, 4, 1)]),
        ([(0, 16, SPAN), (0, 16 + SPAN, 1)], [(0, 16, SPAN, 1), (0, 16 + SPAN, 1, 1)]),
        ([(0, 16, SPAN + 5)], [(0, 16, SPAN + 5, 1)]),
    ],
)
def test_spans(frames: list[tuple[int, int, int]], expected: list[tuple[int, int, int, int]]) -> None:
    assert spans_of(*frames) == expected


def test_random_frames_are_all_fetched_once() -> None:
    random = np.random.default_rng(3)
    entries = np.zeros(4000, SEGMENT_ENTRY)
    entries["pack"] = np.sort(random.integers(0, 3, 4000))
    entries["length"] = random.integers(1, 65552, 4000)
    gaps = random.choice([0, 0, 0, 1000, 300_000], 4000).astype(np.uint64)
    entries["offset"] = np.cumsum(entries["length"] + gaps) - entries["length"]
    entries["block"] = np.arange(4000)
    seen: list[int] = []
    for span in join_frames(TABLE, random.permutation(entries)):
        assert span.length <= SPAN
        assert set(span.entries["pack"].tolist()) == {span.pack}
        assert int(span.entries["offset"].min()) == span.start
        assert int((span.entries["offset"] + span.entries["length"]).max()) == span.start + span.length
        seen += span.entries["block"].tolist()
    assert sorted(seen) == list(range(4000))
