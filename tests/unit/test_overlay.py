"""Walking over layers: every block once, the latest layer wins, a segment is read once."""

from __future__ import annotations

import numpy as np
import pytest

from workers.repository import overlay
from workers.repository.overlay import Layer, visible, windows
from workers.repository.point import SegmentRef
from workers.repository.segment import PACK_ROW, SEGMENT_ENTRY, BlockMap, PackTable


def segment(key: str, blocks: list[int]) -> tuple[SegmentRef, BlockMap]:
    entries = np.zeros(len(blocks), SEGMENT_ENTRY)
    entries["block"] = blocks
    reference = SegmentRef(key, blocks[0], blocks[-1], len(blocks), 0, 0, 0)
    return reference, BlockMap(PackTable((), np.empty(0, PACK_ROW)), entries)


@pytest.mark.parametrize("seed", range(40))
def test_against_the_plainest_way(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(seed)
    blocks = int(random.integers(1, 300))
    monkeypatch.setattr(overlay, "WINDOW_BLOCKS", int(random.choice([7, 64, 1 << 18])))
    expected: dict[int, str] = {}
    pieces: dict[str, BlockMap] = {}
    layers: list[Layer] = []
    for number in range(int(random.integers(0, 6))):
        chosen = np.flatnonzero(random.random(blocks) < random.choice([0.03, 0.5, 1]))
        layer: list[SegmentRef] = []
        for part, found in enumerate(np.array_split(chosen, int(random.integers(1, 5)))):
            if len(found):
                key = f"{number}-{part}"
                reference, pieces[key] = segment(key, found.tolist())
                layer.append(reference)
                expected.update(dict.fromkeys(found.tolist(), key))
        layers.append(tuple(layer))

    read: list[str] = []
    found_blocks: dict[int, str] = {}
    at = 0
    for window in windows(layers, blocks, lambda one: read.append(one.key) or pieces[one.key]):
        assert window.start == at
        assert window.start < window.end <= blocks
        at = window.end
        for part in visible(window):
            for block in part.entries["block"].tolist():
                assert window.start <= block < window.end
                assert block not in found_blocks
                found_blocks[block] = part.segment.key
    assert at == blocks
    assert found_blocks == expected
    assert sorted(read) == sorted(pieces)


def test_a_disk_without_blocks_has_no_windows() -> None:
    assert list(windows([], 0, lambda one: None)) == []


def test_a_segment_that_cannot_be_read_is_empty_and_asked_for_once() -> None:
    reference, _ = segment("bad", [1, 3])
    good, piece = segment("good", [2, 9])
    asked: list[str] = []

    def read(one: SegmentRef) -> BlockMap | None:
        asked.append(one.key)
        return piece if one.key == "good" else None

    found = [
        part.entries["block"].tolist()
        for window in windows([(reference,), (good,)], 10, read)
        for part in visible(window)
    ]
    assert found == [[2], [9]]
    assert sorted(asked) == ["bad", "good"]


def test_the_largest_disk_is_walked_in_no_time() -> None:
    blocks = 1 << 30
    reference, piece = segment("one", [5, blocks - 1])
    found = [window for window in windows([(reference,)], blocks, lambda one: piece) if window.parts]
    assert [int(part.entries["block"][0]) for window in found for part in window.parts] == [5, blocks - 1]
