"""Blocks, bitmaps and plans, against a plain list of block numbers as the oracle."""

from __future__ import annotations

import itertools

import numpy as np
import numpy.typing as npt
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from workers.extents import (
    BATCH_BLOCKS,
    BLOCK_SIZE,
    MAX_DISK_SIZE,
    BitmapError,
    Extent,
    Plan,
    bitmap_length,
    block_count,
    block_length,
    join_extents,
)

GIB = 1 << 30
CHUNK_BLOCKS = 65536
"""Blocks between two entries of the rank index: 4 GiB of disk."""


def bitmap_of(blocks: list[int], count: int) -> bytes:
    """The bitmap in which exactly `blocks` of `count` are set, most significant bit first."""
    bits = np.zeros(-(-count // 8) * 8, np.uint8)
    bits[blocks] = 1
    return np.packbits(bits).tobytes()


def plan_of(blocks: list[int], virtual_size: int) -> Plan:
    return Plan.from_bitmap(bitmap_of(blocks, block_count(virtual_size)), virtual_size)


def all_blocks(plan: Plan) -> list[int]:
    batches = [plan.batch(number) for number in plan.batch_numbers()]
    return [int(block) for batch in batches for block in batch]


@pytest.mark.parametrize(
    ("virtual_size", "blocks", "last_length"),
    [
        (1, 1, 1),
        (BLOCK_SIZE - 1, 1, BLOCK_SIZE - 1),
        (BLOCK_SIZE, 1, BLOCK_SIZE),
        (BLOCK_SIZE + 512, 2, 512),
        (8 * BLOCK_SIZE, 8, BLOCK_SIZE),
        (MAX_DISK_SIZE, 1 << 30, BLOCK_SIZE),
    ],
)
def test_a_disk_is_a_row_of_blocks_and_only_the_last_is_short(
    virtual_size: int, blocks: int, last_length: int
) -> None:
    assert block_count(virtual_size) == blocks
    assert block_length(blocks - 1, virtual_size) == last_length
    if blocks > 1:
        assert block_length(0, virtual_size) == BLOCK_SIZE


@pytest.mark.parametrize(
    ("blocks", "extents"),
    [
        ([], []),
        ([7], [Extent(7, 1)]),
        ([3, 4, 5, 9, 11, 12], [Extent(3, 3), Extent(9, 1), Extent(11, 2)]),
        ([0, 1, 2, 3], [Extent(0, 4)]),
        ([0, 2, 4], [Extent(0, 1), Extent(2, 1), Extent(4, 1)]),
        ([(1 << 33) - 1, 1 << 33], [Extent((1 << 33) - 1, 2)]),
    ],
)
def test_neighbours_are_joined(blocks: list[int], extents: list[Extent]) -> None:
    assert join_extents(np.array(blocks, np.int64)) == extents


@given(st.sets(st.integers(0, 500)))
def test_joined_extents_hold_the_same_blocks_and_no_two_touch(blocks: set[int]) -> None:
    extents = join_extents(np.array(sorted(blocks), np.int64))
    assert [e.start + i for e in extents for i in range(e.length)] == sorted(blocks)
    assert all(a.start + a.length < b.start for a, b in itertools.pairwise(extents))


@pytest.mark.parametrize(
    ("bitmap", "virtual_size", "blocks"),
    [
        (b"\x80", 8 * BLOCK_SIZE, [0]),
        (b"\x01", 8 * BLOCK_SIZE, [7]),
        (b"\x00\x40", 16 * BLOCK_SIZE, [9]),
        (b"\xa5", 8 * BLOCK_SIZE, [0, 2, 5, 7]),
        (b"\x00", 8 * BLOCK_SIZE, []),
        (b"", 0, []),
    ],
)
def test_the_most_significant_bit_is_the_first_block(
    bitmap: bytes, virtual_size: int, blocks: list[int]
) -> None:
    assert all_blocks(Plan.from_bitmap(bitmap, virtual_size)) == blocks


@pytest.mark.parametrize("blocks", range(1, 17))
def test_padding_bits_after_the_last_block_are_cleared(blocks: int) -> None:
    virtual_size = (blocks - 1) * BLOCK_SIZE + 512
    plan = Plan.from_bitmap(b"\xff" * -(-blocks // 8), virtual_size)
    assert all_blocks(plan) == list(range(blocks))
    assert plan == Plan.full(virtual_size)
    assert plan.changed_bytes == virtual_size


@pytest.mark.parametrize(
    ("length", "virtual_size"),
    [(0, 1), (1, 0), (2, 8 * BLOCK_SIZE), (1, 8 * BLOCK_SIZE + 1), (1, GIB)],
)
def test_a_bitmap_of_the_wrong_length_is_refused_and_both_lengths_are_named(
    length: int, virtual_size: int
) -> None:
    with pytest.raises(BitmapError, match=rf"has {length} bytes.* needs {bitmap_length(virtual_size)};"):
        Plan.from_bitmap(bytes(length), virtual_size)


@pytest.mark.parametrize("virtual_size", [-1, MAX_DISK_SIZE + 1, 1 << 63])
def test_an_absurd_disk_is_refused_before_anything_is_allocated(virtual_size: int) -> None:
    for build in (lambda: Plan.from_bitmap(b"", virtual_size), lambda: Plan.full(virtual_size)):
        with pytest.raises(BitmapError, match="beyond anything"):
            build()
    with pytest.raises(BitmapError, match="beyond anything"):
        Plan.unpack(b"", virtual_size)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_batches_are_the_set_bits_by_rank(data: st.DataObject) -> None:
    count = data.draw(st.sampled_from([1, 511, 512, 513, 4096, CHUNK_BLOCKS + 1, 3 * CHUNK_BLOCKS + 77]))
    density = data.draw(st.sampled_from([0.0, 0.001, 0.3, 1.0]))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    blocks: npt.NDArray[np.int64] = np.flatnonzero(rng.random(count) < density)
    plan = plan_of(blocks.tolist(), count * BLOCK_SIZE)
    assert plan.blocks == len(blocks)
    assert plan.batches == -(-len(blocks) // BATCH_BLOCKS)
    for number in plan.batch_numbers():
        expected = blocks[number * BATCH_BLOCKS : (number + 1) * BATCH_BLOCKS]
        np.testing.assert_array_equal(plan.batch(number), expected)


def test_a_batch_spans_the_empty_stretches_of_the_rank_index() -> None:
    """Two changed blocks 12 GiB apart are one batch; the chunks between and after them are empty."""
    blocks = [CHUNK_BLOCKS - 1, 4 * CHUNK_BLOCKS]
    plan = plan_of(blocks, 6 * CHUNK_BLOCKS * BLOCK_SIZE)
    assert plan.batch(0).tolist() == blocks


def test_batches_meet_on_the_border_of_a_chunk() -> None:
    blocks = [
        *range(CHUNK_BLOCKS - BATCH_BLOCKS, CHUNK_BLOCKS),
        *range(2 * CHUNK_BLOCKS, 2 * CHUNK_BLOCKS + 5),
    ]
    plan = plan_of(blocks, 3 * CHUNK_BLOCKS * BLOCK_SIZE)
    assert plan.batch(0).tolist() == blocks[:BATCH_BLOCKS]
    assert plan.batch(1).tolist() == blocks[BATCH_BLOCKS:]


def test_the_largest_disk_needs_no_32_bit_number() -> None:
    last = block_count(MAX_DISK_SIZE) - 1
    bitmap = bytearray(bitmap_length(MAX_DISK_SIZE))
    bitmap[-1] = 1
    bitmap[0] = 0x80
    plan = Plan.from_bitmap(bytes(bitmap), MAX_DISK_SIZE)
    assert plan.batch(0).tolist() == [0, last]
    assert plan.changed_bytes == 2 * BLOCK_SIZE
    assert (plan.batch(0) * BLOCK_SIZE).tolist()[1] == MAX_DISK_SIZE - BLOCK_SIZE


@pytest.mark.parametrize("number", [-1, 2, 3])
def test_a_batch_that_the_plan_does_not_have(number: int) -> None:
    with pytest.raises(IndexError, match=f"batch {number} of a plan of 2"):
        Plan.full((BATCH_BLOCKS + 1) * BLOCK_SIZE).batch(number)


@pytest.mark.parametrize(
    ("blocks", "virtual_size", "changed_bytes"),
    [
        ([0], 2 * BLOCK_SIZE + 512, BLOCK_SIZE),
        ([2], 2 * BLOCK_SIZE + 512, 512),
        ([0, 2], 2 * BLOCK_SIZE + 512, BLOCK_SIZE + 512),
        ([], 2 * BLOCK_SIZE + 512, 0),
        ([1], 2 * BLOCK_SIZE, BLOCK_SIZE),
        ([], 0, 0),
    ],
)
def test_changed_bytes_count_the_short_last_block_as_it_is(
    blocks: list[int], virtual_size: int, changed_bytes: int
) -> None:
    assert plan_of(blocks, virtual_size).changed_bytes == changed_bytes


@given(st.sets(st.integers(0, 999)), st.integers(1, 1000 * BLOCK_SIZE))
def test_a_packed_plan_comes_back_equal(blocks: set[int], virtual_size: int) -> None:
    plan = plan_of([b for b in blocks if b < block_count(virtual_size)], virtual_size)
    assert Plan.unpack(plan.pack(), virtual_size) == plan


def test_a_full_plan_of_two_tebibytes_packs_small() -> None:
    assert len(Plan.full(2 << 40).pack()) < 4096


@pytest.mark.parametrize(
    ("packed", "why"),
    [
        (b"", "cannot be decompressed"),
        (b"junk that is no zstd frame", "cannot be decompressed"),
        (Plan.full(64 * BLOCK_SIZE).pack()[:-1], "cannot be decompressed"),
        (Plan.full(64 * BLOCK_SIZE).pack() + b"x", "cannot be decompressed"),
        (Plan.full(65 * BLOCK_SIZE).pack(), "has 9 bytes, .* needs 8"),
        (Plan.full(0).pack(), "has 0 bytes, .* needs 8"),
    ],
)
def test_a_damaged_packed_plan_is_refused(packed: bytes, why: str) -> None:
    with pytest.raises(BitmapError, match=why):
        Plan.unpack(packed, 64 * BLOCK_SIZE)


def test_a_packed_plan_that_would_unpack_to_far_more_is_refused_unopened() -> None:
    bomb = zstandard.ZstdCompressor().compress(bytes(256 << 20))
    with pytest.raises(BitmapError, match="has 268435456 bytes"):
        Plan.unpack(bomb, GIB)


def test_a_plan_does_not_print_its_bitmap() -> None:
    assert len(repr(Plan.full(2 << 40))) < 100
