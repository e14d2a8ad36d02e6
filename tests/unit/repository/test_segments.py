"""Segments and layers: written once, found again, overlaid, merged; damage has a name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.repository_machine import DISK, ENCRYPTED, PLAIN, SNAPSHOT, Machine, MemoryStore
from workers.extents import BLOCK_SIZE, Plan, block_count
from workers.repository import (
    AlreadyWritten,
    BlockMap,
    DamagedObject,
    DiskPoint,
    Kind,
    MissingBatches,
    PackTable,
    PrivateKeys,
    RepositoryError,
    SegmentRef,
    read_pack_table,
    read_segment,
)
from workers.repository.overlay import visible, windows
from workers.repository.segment import NAMED, PACK_ROW, SEGMENT_ENTRY, join, seal_segment, without_unused
from workers.repository.store import ObjectMissing

Flip = Callable[[str, int], None]
NewMachine = Callable[[int], Machine]


def big_piece(count: int, size: int = 1 << 62) -> BlockMap:
    """Entries at random places of huge packs: offsets of 62 bits."""
    random = np.random.default_rng(5)
    rows = np.zeros(40, PACK_ROW)
    for column in NAMED:
        rows[column] = random.integers(0, 5, 40)
    rows["batch"] = rows["object_batch"] = np.arange(40)
    rows["size"] = size
    rows["hash"] = random.integers(0, 256, (40, 16))
    rows["generation"] = random.integers(0, 256, 40)
    rows["data_key"] = random.integers(0, 256, (40, 80))
    entries = np.zeros(count, SEGMENT_ENTRY)
    entries["block"] = np.sort(random.choice(2**30, count, replace=False))
    entries["pack"] = random.integers(0, 40, count)
    entries["offset"] = random.integers(16, size - 65552, count)
    entries["length"] = random.integers(1, 65537, count)
    entries["flags"] = random.integers(0, 2, count)
    entries["hash"] = random.integers(0, 256, (count, 16))
    entries["moved"][::7] = random.integers(0, 2**64, len(entries[::7]), dtype=np.uint64)
    return BlockMap(PackTable((DISK, "other-disk", "run-a", "run-b", "snap"), rows), entries)


def test_a_large_segment_comes_back(store: MemoryStore, keys: PrivateKeys) -> None:
    piece = big_piece(5000)
    key = f"segments/{DISK}/run-b/00000000"
    data, reference = seal_segment(keys.metadata, key, piece)
    store.objects[key] = data
    again = read_segment(store, keys.metadata, reference, 64 << 40)
    assert np.array_equal(again.entries, piece.entries)
    assert again.table.names == piece.table.names
    assert np.array_equal(again.table.rows, piece.table.rows)
    assert (reference.entries, reference.packs, reference.size) == (5000, 40, len(data))


def test_the_pack_table_is_read_by_one_ranged_request(store: MemoryStore, keys: PrivateKeys) -> None:
    piece = big_piece(5000)
    key = f"segments/{DISK}/run-b/00000000"
    data, reference = seal_segment(keys.metadata, key, piece)
    store.objects[key] = data[: reference.table_bytes]
    table = read_pack_table(store, keys.metadata, reference)
    assert np.array_equal(table.rows, piece.table.rows)
    assert len(store.requests) == 1
    assert reference.table_bytes < reference.size / 5


def test_a_dense_segment_costs_little_more_than_its_hashes(store: MemoryStore) -> None:
    count = 50_000
    random = np.random.default_rng(5)
    piece = big_piece(count)
    piece.entries["block"] = np.arange(count)
    piece.entries["moved"] = 0
    piece.entries["pack"] = np.arange(count) // 512 % 40
    piece.entries["length"] = random.integers(20_000, 30_000, count)
    ends = np.cumsum(piece.entries["length"], dtype=np.uint64)
    piece.entries["offset"] = 16 + ends - piece.entries["length"]
    data, _ = seal_segment(PLAIN.metadata, f"segments/{DISK}/r/00000000", piece)
    assert len(data) / count < 16 + 3


def test_a_full_backup_and_its_increments_restore(machine: NewMachine) -> None:
    """Holes in every role, a block written twice, a short last block, and growth."""
    m = machine(1300 * BLOCK_SIZE - 77)
    m.write([0, 1, 2, 600, 1299])
    points = [(m.backup("run1", Plan.full(m.size)), bytes(m.content))]
    m.write([1, 700])
    m.write([2], zeros=True)
    points.append((m.backup("run2", m.plan([1, 2, 700])), bytes(m.content)))
    m.grow(1400 * BLOCK_SIZE + 5)
    m.write([1, 1399, 1400])
    points.append((m.backup("run3", m.plan([1, 1399, 1400])), bytes(m.content)))
    for disk, content in points:
        assert m.restored(disk) == content
    assert [len(disk.layers()) for disk, _ in points] == [1, 2, 3]


def test_nothing_changed_costs_no_request_and_inherits(machine: NewMachine) -> None:
    m = machine(20 * BLOCK_SIZE)
    m.write([3])
    first = m.backup("run1", Plan.full(m.size))
    m.store.requests.clear()
    assert m.backup("run2", m.plan([])).segments == first.segments
    assert m.store.requests == []


def test_a_disk_of_zeros_has_no_segment(machine: NewMachine) -> None:
    m = machine(20 * BLOCK_SIZE)
    disk = m.backup("run1", Plan.full(m.size))
    assert disk.segments == ()
    assert m.restored(disk) == bytes(m.size)


def test_a_full_plan_takes_nothing_from_its_parent(machine: NewMachine) -> None:
    m = machine(20 * BLOCK_SIZE)
    m.write([3])
    m.backup("run1", Plan.full(m.size))
    m.write([3], zeros=True)
    assert m.backup("run2", Plan.full(m.size)).segments == ()


def test_the_17th_layer_merges_all(machine: NewMachine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Merged, the disk is what it would be unmerged, and in several segments of a bounded size."""
    m = machine(900 * BLOCK_SIZE)
    m.write(list(range(0, 900, 2)))
    m.backup("run00", Plan.full(m.size))
    for number in range(1, 17):
        chosen = sorted(set(m.random.integers(0, 900, 12).tolist()))
        m.write(chosen, zeros=number % 4 == 0)
        if number < 16:
            m.backup(f"run{number:02d}", m.plan(chosen))
    assert m.parent is not None
    assert len(m.parent.layers()) == 16
    plan = m.plan(chosen)
    m.put_packs("run16", plan)
    with monkeypatch.context() as patch:
        patch.setattr("workers.repository.write_segments.MAX_LAYERS", 99)
        unmerged = m.point(
            "run16", m.repository.write_segments("run16", DISK, SNAPSHOT, plan, m.parent)
        ).disks[0]
    monkeypatch.setattr("workers.repository.write_segments.SEGMENT_ENTRIES", 100)
    merged = m.point("run16", m.repository.write_segments("run16", DISK, SNAPSHOT, plan, m.parent)).disks[0]
    assert (len(unmerged.layers()), len(merged.layers())) == (17, 1)
    assert len(merged.segments) > 3
    assert max(segment.entries for segment in merged.segments) == 100
    assert m.restored(merged) == m.restored(unmerged) == bytes(m.content)
    assert m.repository.write_segments("run16", DISK, SNAPSHOT, plan, m.parent) == merged.segments


def test_write_segments_again_gives_the_same(machine: NewMachine) -> None:
    m = machine(1300 * BLOCK_SIZE)
    m.write([5, 600, 1200])
    plan = Plan.full(m.size)
    m.put_packs("run1", plan)
    first = m.repository.write_segments("run1", DISK, SNAPSHOT, plan, None)
    before = dict(m.store.objects)
    assert m.repository.write_segments("run1", DISK, SNAPSHOT, plan, None) == first
    assert m.store.objects == before


def test_of_two_packs_of_a_batch_one_is_taken_and_a_damaged_one_is_not(
    store: MemoryStore, damage: Flip
) -> None:
    m = Machine(store, ENCRYPTED, 600 * BLOCK_SIZE)
    m.write([5, 599])
    plan = Plan.full(m.size)
    m.put_packs("run1", plan)
    m.put_packs("run1", plan)  # a second worker, with other keys and so other names
    names = sorted(key for key in m.store.objects if key.startswith("packs/"))
    assert len(names) == 4
    damage(names[0], -1)
    disk = m.point("run1", m.repository.write_segments("run1", DISK, SNAPSHOT, plan, None)).disks[0]
    assert m.restored(disk) == bytes(m.content)
    assert m.repository.write_segments("run1", DISK, SNAPSHOT, plan, None) == disk.segments
    damage(names[1], -1)
    with pytest.raises(DamagedObject, match=names[0]):
        m.repository.write_segments("run1", DISK, SNAPSHOT, plan, None)


def test_a_later_attempt_that_finds_other_packs_keeps_what_is_written(machine: NewMachine) -> None:
    m = machine(10 * BLOCK_SIZE)
    m.write([5])
    plan = Plan.full(m.size)
    m.put_packs("run1", plan)
    first = m.repository.write_segments("run1", DISK, SNAPSHOT, plan, None)
    for _ in range(6):
        m.put_packs("run1", plan)
    assert m.repository.write_segments("run1", DISK, SNAPSHOT, plan, None) == first


def test_missing_batches_are_named_and_nothing_is_written(machine: NewMachine) -> None:
    m = machine(2000 * BLOCK_SIZE)
    plan = Plan.full(m.size)
    pack = m.pack("run1", plan, 2)
    m.store.put_if_absent(pack.key, pack.data)
    with pytest.raises(MissingBatches) as caught:
        m.repository.write_segments("run1", DISK, SNAPSHOT, plan, None)
    assert caught.value.numbers == (0, 1, 3)
    assert not [key for key in m.store.objects if key.startswith("segments/")]


def test_a_pack_of_another_plan_is_not_taken(machine: NewMachine) -> None:
    m = machine(100 * BLOCK_SIZE)
    pack = m.pack("run1", m.plan([1, 2, 3]), 0)
    m.store.put_if_absent(pack.key, pack.data)
    with pytest.raises(DamagedObject, match="blocks of its batch"):
        m.repository.write_segments("run1", DISK, SNAPSHOT, m.plan([1, 2, 4]), None)
    grown = Plan.from_bitmap(m.plan([1, 2, 3]).bitmap, m.size - 1)
    with pytest.raises(DamagedObject, match="another size"):
        m.repository.write_segments("run1", DISK, SNAPSHOT, grown, None)


def test_a_run_that_is_used_again_for_other_blocks_is_refused(machine: NewMachine) -> None:
    m = machine(100 * BLOCK_SIZE)
    m.write([1])
    m.backup("run1", m.plan([1]))
    m.parent = None
    m.write([1])
    for key in [key for key in m.store.objects if key.startswith("packs/")]:
        m.store.delete(key)
    with pytest.raises(AlreadyWritten):
        m.backup("run1", m.plan([1]))


def test_a_smaller_disk_than_its_parent_is_refused(machine: NewMachine) -> None:
    m = machine(100 * BLOCK_SIZE)
    parent = m.backup("run1", Plan.full(m.size))
    smaller = Plan.from_bitmap(bytes(11) + b"\x80", 90 * BLOCK_SIZE)
    with pytest.raises(RepositoryError, match="smaller"):
        m.repository.write_segments("run2", DISK, SNAPSHOT, smaller, parent)


def written_segment(m: Machine) -> tuple[DiskPoint, SegmentRef]:
    m.write([1, 5, 7])
    disk = m.backup("run1", Plan.full(m.size))
    return disk, disk.segments[0]


def test_every_damaged_byte_region_of_a_segment_is_one_named_error(machine: NewMachine, damage: Flip) -> None:
    m = machine(10 * BLOCK_SIZE)
    _, segment = written_segment(m)
    good = m.store.objects[segment.key]
    for position in (
        0,
        8,
        10,
        12,
        20,
        48,
        56,
        64,
        75,
        81,
        segment.table_bytes - 1,
        segment.table_bytes,
        -17,
        -1,
    ):
        damage(segment.key, position)
        with pytest.raises(DamagedObject) as caught:
            read_segment(m.store, m.keys.metadata, segment, m.size)
        assert caught.value.object == segment.key
        m.store.objects[segment.key] = good
    for cut in (b"", good[:10], good[:60], good[: segment.table_bytes], good[:-1]):
        m.store.objects[segment.key] = cut
        with pytest.raises(DamagedObject):
            read_segment(m.store, m.keys.metadata, segment, m.size)
    del m.store.objects[segment.key]
    with pytest.raises(ObjectMissing):
        read_segment(m.store, m.keys.metadata, segment, m.size)


def test_swapped_segments_and_wrong_references_are_refused(machine: NewMachine) -> None:
    m = machine(10 * BLOCK_SIZE)
    _, first = written_segment(m)
    m.write([4])
    second = m.backup("run2", m.plan([4])).segments[1]
    m.store.objects[first.key], good = m.store.objects[second.key], m.store.objects[first.key]
    with pytest.raises(DamagedObject):
        read_segment(m.store, m.keys.metadata, replace(first, size=second.size), m.size)
    m.store.objects[first.key] = good
    for changed in ({"first": 0}, {"last": 9}, {"entries": 2}, {"packs": 7}):
        with pytest.raises(DamagedObject, match="another segment"):
            read_segment(m.store, m.keys.metadata, replace(first, **changed), m.size)
    with pytest.raises(DamagedObject, match="within the disk"):
        read_segment(m.store, m.keys.metadata, first, 3 * BLOCK_SIZE)


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("pack", 40),
        ("offset", 15),
        ("offset", 1 << 62),
        ("offset", (1 << 64) - 10),
        ("flags", 3),
        ("length", 0),
    ],
)
def test_entries_that_cannot_be_are_refused_even_well_sealed(
    store: MemoryStore, keys: PrivateKeys, column: str, value: int
) -> None:
    piece = big_piece(100)
    piece.entries[column][50] = value
    key = f"segments/{DISK}/run-b/00000000"
    data, reference = seal_segment(keys.metadata, key, piece)
    store.objects[key] = data
    with pytest.raises(DamagedObject):
        read_segment(store, keys.metadata, reference, 64 << 40)


def test_joined_maps_list_each_pack_once() -> None:
    piece = big_piece(200)
    low, high = (BlockMap(piece.table, piece.entries[part]) for part in (slice(100), slice(100, 200)))
    joined = without_unused(join([without_unused(low), without_unused(high)]))
    assert len(joined.table) == len(np.unique(piece.entries["pack"]))
    for before, after in zip(piece.entries, joined.entries, strict=True):
        assert piece.table.name(before["pack"]) == joined.table.name(after["pack"])
        assert piece.table.origin(before["pack"]) == joined.table.origin(after["pack"])


Layers = list[dict[int, tuple[int, bool]]]


@settings(max_examples=60, deadline=None)
@given(
    layers=st.lists(
        st.dictionaries(st.integers(0, 120), st.tuples(st.integers(1, 99), st.booleans()), max_size=40),
        min_size=1,
        max_size=6,
    ),
    cut=st.integers(1, 15),
)
def test_laying_layers_over_one_another_is_what_a_dict_does(layers: Layers, cut: int) -> None:
    """Against the simplest model: a dict that later layers update. Offsets tell the entries apart."""
    pieces: dict[str, BlockMap] = {}
    references: list[tuple[SegmentRef, ...]] = []
    expected: dict[int, tuple[int, int]] = {}
    for number, layer in enumerate(layers):
        rows = np.zeros(1, PACK_ROW)
        rows["batch"] = rows["object_batch"] = number
        rows["size"] = 1 << 40
        entries = np.zeros(len(layer), SEGMENT_ENTRY)
        for entry, (block, (mark, hole)) in zip(entries, sorted(layer.items()), strict=True):
            entry["block"], entry["offset"] = block, 16 + mark
            entry["flags"], entry["length"] = (Kind.HOLE, 0) if hole else (Kind.RAW, 100)
            expected[block] = (number, 16 + mark)
        segments: list[SegmentRef] = []
        for start in range(0, len(layer), cut):
            piece = BlockMap(PackTable((f"run{number}",), rows), entries[start : start + cut])
            key = f"segments/{DISK}/run{number}/{start:08d}"
            _, reference = seal_segment(ENCRYPTED.metadata, key, piece)
            pieces[key] = piece
            segments.append(reference)
        references.append(tuple(segments))
    found: dict[int, tuple[int, int]] = {}
    for window in windows(references, block_count(130 * BLOCK_SIZE), lambda segment: pieces[segment.key]):
        for part in visible(window):
            for entry in part.entries:
                assert int(entry["block"]) not in found
                assert window.start <= entry["block"] < window.end
                name = part.table.name(int(entry["pack"]))
                found[int(entry["block"])] = (name.batch, int(entry["offset"]))
    assert found == expected
