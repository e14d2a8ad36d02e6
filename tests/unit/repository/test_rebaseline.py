"""A re-baseline reads all and stores what differs; what it does not store is proved, or is an error."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.repository_machine import DISK, ENCRYPTED, PLAIN, SNAPSHOT, Machine, MemoryStore
from workers.extents import BATCH_BLOCKS, BLOCK_SIZE, Plan, block_count
from workers.repository import (
    DamagedObject,
    DiskPoint,
    Kind,
    KnownHashes,
    ObjectExists,
    PrivateKeys,
    read_pack_index,
    read_pack_table,
    restore_disk,
    verify_points,
)
from workers.repository.known_hashes import RECORD_SIZE
from workers.repository.segment import read_segment

NewMachine = Callable[[int], Machine]
Flip = Callable[[str, int], None]
NEW = "run500"


def known_of(m: Machine, run: str, earlier: DiskPoint) -> KnownHashes:
    worker = m.keys.metadata.worker
    return KnownHashes(m.store, worker, run=run, disk=DISK, snapshot=earlier.snapshot)


def put_compared(m: Machine, run: str, earlier: DiskPoint, batches: range | None = None) -> int:
    """What a worker does: every block read, those that differ stored. Returns the bytes stored."""
    plan = Plan.full(m.size)
    known, stored = known_of(m, run, earlier), 0
    for batch in batches or plan.batch_numbers():
        pack = m.pack(run, plan, batch, known=known.of(batch))
        stored += len(pack.data)
        with contextlib.suppress(ObjectExists):
            m.store.put_if_absent(pack.key, pack.data)
    return stored


def segments_of(m: Machine, run: str, earlier: DiskPoint | None) -> DiskPoint:
    segments = m.repository.write_segments(run, DISK, SNAPSHOT, Plan.full(m.size), None, earlier)
    m.parent = None  # of a full
    m.parent = m.point(run, segments).disks[0]
    return m.parent


def rebaseline(m: Machine, run: str = NEW) -> tuple[DiskPoint, int]:
    earlier = m.parent
    assert earlier is not None
    m.repository.keep_known_hashes(run, Plan.full(m.size), earlier)
    stored = put_compared(m, run, earlier)
    return segments_of(m, run, earlier), stored


def check(m: Machine, disk: DiskPoint, folder: Path) -> None:
    """Byte for byte by the plain reader and by the real one, and verify finds nothing."""
    assert m.restored(disk) == bytes(m.content)
    restore_disk(m.store, m.keys, disk, folder / "disk", force=True, threads=2)
    assert (folder / "disk").read_bytes() == bytes(m.content)
    point = replace(m.point(NEW, disk.segments), disks=(disk,))
    assert verify_points(m.store, m.keys, [point], threads=2).damaged == []


def kinds(m: Machine, run: str) -> dict[int, Kind]:
    found = {}
    for info in m.store.list(f"packs/{DISK}/{run}/"):
        entries = read_pack_index(m.store, info, m.keys.metadata)
        found.update(zip(entries["block"].tolist(), map(Kind, entries["flags"].tolist()), strict=True))
    return found


def packs_of(m: Machine, disk: DiskPoint) -> set[str]:
    tables = [read_pack_table(m.store, m.keys.metadata, segment) for segment in disk.segments]
    return {table.name(row).key for table in tables for row in range(len(table))}


def test_an_equal_disk_stores_next_to_nothing(machine: NewMachine, tmp_path: Path) -> None:
    m = machine(700 * BLOCK_SIZE - 77)
    m.write([0, 1, 2, 600, 698, 699])
    first = m.backup("run1", Plan.full(m.size))
    disk, stored = rebaseline(m)
    assert stored < 40_000
    found = kinds(m, NEW)
    assert {block for block, kind in found.items() if kind is Kind.UNCHANGED} == {0, 1, 2, 600, 698, 699}
    assert len(found) == 700
    assert packs_of(m, disk) == packs_of(m, first)  # its own packs are waste: prune may have them
    assert {segment.run for segment in disk.segments} == {NEW}
    check(m, disk, tmp_path)


def test_what_differs_is_stored(machine: NewMachine, tmp_path: Path) -> None:
    """Changed blocks, blocks that became zeros, zeros that became data; unsaid by any bitmap."""
    m = machine(700 * BLOCK_SIZE - 77)
    m.write([0, 1, 2, 600, 698, 699])
    m.backup("run1", Plan.full(m.size))
    m.write([1, 699, 650])
    m.write([2], zeros=True)
    disk, _ = rebaseline(m)
    found = kinds(m, NEW)
    assert {block for block, kind in found.items() if kind is Kind.UNCHANGED} == {0, 600, 698}
    assert {block for block, kind in found.items() if kind < Kind.HOLE} == {1, 650, 699}
    assert found[2] is Kind.HOLE
    check(m, disk, tmp_path)


@pytest.mark.parametrize("size", [800 * BLOCK_SIZE + 5, 700 * BLOCK_SIZE, 690 * BLOCK_SIZE + 5])
def test_a_disk_of_another_size(machine: NewMachine, tmp_path: Path, size: int) -> None:
    """Grown by blocks, grown within its short last block, and shrunk: which no XAPI disk does."""
    m = machine(700 * BLOCK_SIZE - 77)
    m.write([0, 600, 690, 699])
    m.backup("run1", Plan.full(m.size))
    if size > m.size:
        m.grow(size)
    else:
        del m.content[size:]
        m.size = size
    m.write([block_count(size) - 3])
    disk, _ = rebaseline(m)
    found = kinds(m, NEW)
    unchanged = {block for block, kind in found.items() if kind is Kind.UNCHANGED}
    assert unchanged == ({0, 600, 690} if size >= 700 * BLOCK_SIZE else {0, 600})
    assert len(found) == block_count(size)
    check(m, disk, tmp_path)


def test_over_many_layers_and_on_to_the_next_merge(
    machine: NewMachine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Segments, windows and objects of known hashes all end at different blocks here."""
    for module in ("known_hashes", "earlier_blocks"):
        monkeypatch.setattr(f"workers.repository.{module}.KNOWN_BATCHES", 2)
    monkeypatch.setattr("workers.repository.write_segments._BATCHES", 1)
    monkeypatch.setattr("workers.repository.write_segments.SEGMENT_ENTRIES", 100)
    monkeypatch.setattr("workers.repository.overlay.WINDOW_BLOCKS", 300)
    m = machine(1100 * BLOCK_SIZE - 9)
    m.write(list(range(0, 1100, 3)))
    m.backup("run00", Plan.full(m.size))
    for number in range(1, 20):
        chosen = sorted(set(m.random.integers(0, 1100, 5).tolist()))
        m.write(chosen, zeros=number % 4 == 0)
        m.backup(f"run{number:02d}", m.plan(chosen))
    assert m.parent is not None
    assert len(m.parent.layers()) == 4  # run 16 merged the first 17
    m.write([5, 1099])
    disk, _ = rebaseline(m)
    assert (len(disk.layers()), len(disk.segments)) == (1, 3)
    found = kinds(m, NEW)
    assert {block for block, kind in found.items() if kind < Kind.HOLE} == {5, 1099}
    check(m, disk, tmp_path)
    for number in range(501, 517):
        m.write([number])
        disk = m.backup(f"run{number}", m.plan([number]))
    assert len(disk.layers()) == 1
    check(m, disk, tmp_path)


def test_a_re_baseline_of_a_re_baseline(machine: NewMachine, tmp_path: Path) -> None:
    m = machine(20 * BLOCK_SIZE)
    m.write([1, 2, 3])
    first = m.backup("run1", Plan.full(m.size))
    m.write([2])
    rebaseline(m, "run2")
    m.write([3])
    disk, _ = rebaseline(m)
    assert len(packs_of(m, disk)) == 3
    assert packs_of(m, first) < packs_of(m, disk)
    check(m, disk, tmp_path)


def test_an_interrupted_run_and_two_packs_of_a_batch(machine: NewMachine, tmp_path: Path) -> None:
    """Some packs compared, some not, some twice: any mixture is right, and again gives the same."""
    m = machine(1100 * BLOCK_SIZE)
    m.write([0, 1, 600, 1030, 1099])
    earlier = m.backup("run1", Plan.full(m.size))
    m.write([1])
    plan = Plan.full(m.size)
    m.repository.keep_known_hashes(NEW, plan, earlier)
    put_compared(m, NEW, earlier, range(2))
    everything = m.pack(NEW, plan, 1)  # by a worker that could not read the known hashes
    m.store.put_if_absent(everything.key, everything.data)
    assert m.repository.keep_known_hashes(NEW, plan, earlier) == 5  # planned again after a crash
    put_compared(m, NEW, earlier, range(2, 3))
    disk = segments_of(m, NEW, earlier)
    check(m, disk, tmp_path)
    for _ in range(3):
        for batch in plan.batch_numbers():
            pack = m.pack(NEW, plan, batch)
            with contextlib.suppress(ObjectExists):
                m.store.put_if_absent(pack.key, pack.data)
        put_compared(m, NEW, earlier)
    assert segments_of(m, NEW, earlier).segments == disk.segments


def lying(m: Machine, earlier: DiskPoint, block: int, known: bytes) -> str:
    """A pack of batch 0 that calls `block` unchanged, whatever the earlier point has; returns its key."""
    known_all = bytearray(known_of(m, NEW, earlier).of(0))
    known_all[16 * block : 16 * block + 16] = known
    pack = m.pack(NEW, Plan.full(m.size), 0, known=bytes(known_all))
    m.store.put_if_absent(pack.key, pack.data)
    return pack.key


@pytest.mark.parametrize("block", [2, 3], ids=["another block there", "no block there"])
def test_a_block_falsely_called_unchanged_is_an_error(machine: NewMachine, block: int) -> None:
    """Never silently another block. A second pack of the batch that is right is taken instead."""
    m = machine(20 * BLOCK_SIZE)
    m.write([1, 2])
    earlier = m.backup("run1", Plan.full(m.size))
    m.repository.keep_known_hashes(NEW, Plan.full(m.size), earlier)
    m.write([block])
    truth = m.pack("other", Plan.full(m.size), 0)
    m.store.put_if_absent(truth.key, truth.data)
    [info] = m.store.list(f"packs/{DISK}/other/")
    entries = read_pack_index(m.store, info, m.keys.metadata)
    key = lying(m, earlier, block, entries["hash"][block].tobytes())
    with pytest.raises(DamagedObject, match=f"{key}, block {block} is damaged: it calls a block unchanged"):
        segments_of(m, NEW, earlier)
    assert not [key for key in m.store.objects if key.startswith(f"segments/{DISK}/{NEW}")]
    put_compared(m, NEW, earlier)
    assert m.restored(segments_of(m, NEW, earlier)) == bytes(m.content)


def test_unchanged_without_a_point_to_look_it_up_in(machine: NewMachine, damage: Flip) -> None:
    m = machine(20 * BLOCK_SIZE)
    m.write([1, 2])
    earlier = m.backup("run1", Plan.full(m.size))
    m.repository.keep_known_hashes(NEW, Plan.full(m.size), earlier)
    put_compared(m, NEW, earlier)
    with pytest.raises(DamagedObject, match="there is no restore point"):
        segments_of(m, NEW, None)
    with pytest.raises(DamagedObject, match="the restore point that it was compared with does not have"):
        segments_of(m, NEW, replace(earlier, segments=()))
    damage(earlier.segments[0].key, -1)
    with pytest.raises(DamagedObject, match=f"blocks unchanged, but .*{earlier.segments[0].key}"):
        segments_of(m, NEW, earlier)


def test_a_damaged_earlier_point_matters_only_if_it_is_needed(machine: NewMachine, damage: Flip) -> None:
    m = machine(20 * BLOCK_SIZE)
    m.write([1, 2])
    earlier = m.backup("run1", Plan.full(m.size))
    damage(earlier.segments[0].key, -1)
    with pytest.raises(DamagedObject, match=earlier.segments[0].key):
        m.repository.keep_known_hashes(NEW, Plan.full(m.size), earlier)
    put_compared(m, NEW, earlier)  # nothing is known: all is stored
    assert Kind.UNCHANGED not in kinds(m, NEW).values()
    assert m.restored(segments_of(m, NEW, earlier)) == bytes(m.content)


def test_blocks_of_a_missing_or_cut_pack_are_stored_again(machine: NewMachine, tmp_path: Path) -> None:
    m = machine(1100 * BLOCK_SIZE)
    m.write([0, 600, 1030])
    m.backup("run1", Plan.full(m.size))
    keys = sorted(key for key in m.store.objects if key.startswith("packs/"))
    del m.store.objects[keys[0]]
    m.store.objects[keys[2]] = m.store.objects[keys[2]][:-1]
    disk, _ = rebaseline(m)
    found = kinds(m, NEW)
    assert {block for block, kind in found.items() if kind < Kind.HOLE} == {0, 1030}
    assert {block for block, kind in found.items() if kind is Kind.UNCHANGED} == {600}
    check(m, disk, tmp_path)


def test_a_segment_never_says_unchanged(machine: NewMachine, monkeypatch: pytest.MonkeyPatch) -> None:
    m = machine(20 * BLOCK_SIZE)
    m.write([1, 2])
    earlier = m.backup("run1", Plan.full(m.size))
    m.repository.keep_known_hashes(NEW, Plan.full(m.size), earlier)
    put_compared(m, NEW, earlier)
    name = "workers.repository.earlier_blocks.UnchangedBlocks.resolved"
    monkeypatch.setattr(name, lambda self, piece: piece)
    disk = segments_of(m, NEW, earlier)
    with pytest.raises(DamagedObject, match="impossible kind"):
        read_segment(m.store, m.keys.metadata, disk.segments[0], m.size)


# Known hashes


def test_known_hashes_are_fetched_batch_by_batch(machine: NewMachine) -> None:
    m = machine(1100 * BLOCK_SIZE)
    m.write([0, 513])
    earlier = m.backup("run1", Plan.full(m.size))
    assert m.repository.keep_known_hashes(NEW, Plan.full(m.size), earlier) == 2
    [key] = [key for key in m.store.objects if key.startswith("known/")]
    assert key == f"known/{NEW}/{DISK}/00000000"
    assert len(m.store.objects[key]) == 3 * RECORD_SIZE == 3 * 8240
    known = known_of(m, NEW, earlier)
    m.store.requests.clear()
    hashes = np.frombuffer(known.of(1), np.uint8).reshape(BATCH_BLOCKS, 16)
    assert np.flatnonzero(hashes.any(axis=1)).tolist() == [1]
    assert len(m.store.requests) == 1


def test_nothing_known_is_no_object_and_one_request(store: MemoryStore, keys: PrivateKeys) -> None:
    m = Machine(store, keys, 1100 * BLOCK_SIZE)
    earlier = m.backup("run1", Plan.full(m.size))
    assert m.repository.keep_known_hashes(NEW, Plan.full(m.size), earlier) == 0
    known = known_of(m, NEW, earlier)
    store.requests.clear()
    assert [known.of(batch) for batch in range(3)] == [b""] * 3
    assert len(store.requests) == 1


def test_known_hashes_from_elsewhere_do_not_open(machine: NewMachine, damage: Flip) -> None:
    """Another run, batch, disk, or compared with another point; damaged, or cut."""
    m = machine(1100 * BLOCK_SIZE)
    m.write([0, 600])
    earlier = m.backup("run1", Plan.full(m.size))
    m.repository.keep_known_hashes(NEW, Plan.full(m.size), earlier)
    [key] = [key for key in m.store.objects if key.startswith("known/")]
    good = m.store.objects[key]
    worker = m.keys.metadata.worker
    m.store.objects[f"known/other/{DISK}/00000000"] = m.store.objects[f"known/{NEW}/elsewhere/00000000"] = (
        good
    )
    for run, disk, snapshot in [
        ("other", DISK, earlier.snapshot),
        (NEW, "elsewhere", earlier.snapshot),
        (NEW, DISK, "another-snapshot"),
    ]:
        with pytest.raises(DamagedObject, match="the hashes of batch 0"):
            KnownHashes(m.store, worker, run=run, disk=disk, snapshot=snapshot).of(0)
    known = known_of(m, NEW, earlier)
    swapped = good[RECORD_SIZE : 2 * RECORD_SIZE] + good[:RECORD_SIZE] + good[2 * RECORD_SIZE :]
    m.store.objects[key] = swapped
    with pytest.raises(DamagedObject, match="the hashes of batch 1"):
        known.of(1)
    m.store.objects[key] = good
    damage(key, 40)
    with pytest.raises(DamagedObject, match="the hashes of batch 0"):
        known.of(0)
    m.store.objects[key] = good[:-1]
    assert known.of(1)
    with pytest.raises(DamagedObject, match="truncated"):
        known.of(2)


def test_a_bucket_reader_learns_nothing_from_known_hashes(store: MemoryStore) -> None:
    m = Machine(store, ENCRYPTED, 20 * BLOCK_SIZE)
    m.write([1])
    m.content[2 * BLOCK_SIZE : 3 * BLOCK_SIZE] = m.content[BLOCK_SIZE : 2 * BLOCK_SIZE]
    earlier = m.backup("run1", Plan.full(m.size))
    m.repository.keep_known_hashes(NEW, Plan.full(m.size), earlier)
    hashes = known_of(m, NEW, earlier).of(0)
    assert hashes[16:32] == hashes[32:48] != bytes(16)
    [stored] = [data for key, data in store.objects.items() if key.startswith("known/")]
    assert hashes[16:32] not in stored


def test_known_hashes_go_with_their_run(machine: NewMachine) -> None:
    m = machine(20 * BLOCK_SIZE)
    m.write([1])
    earlier = m.backup("run1", Plan.full(m.size))
    m.repository.open_run(NEW, b"{}")
    m.repository.keep_known_hashes(NEW, Plan.full(m.size), earlier)
    m.repository.close_run(NEW, b"{}")
    assert not [key for key in m.store.objects if key.startswith("known/")]


# Any history

BLOCKS = 24
STEP = st.tuples(
    st.sampled_from(["incremental", "full", "compared", "compared"]),
    st.lists(st.integers(0, BLOCKS - 1), max_size=6),
    st.lists(st.integers(0, BLOCKS - 1), max_size=3),
    st.sampled_from([0, 0, 0, 1000, 3 * BLOCK_SIZE]),
)


@settings(max_examples=40, deadline=None)
@given(st.lists(STEP, min_size=1, max_size=8), st.booleans())
def test_any_history_comes_back(steps: list[tuple[str, list[int], list[int], int]], encrypted: bool) -> None:
    m = Machine(MemoryStore(), ENCRYPTED if encrypted else PLAIN, BLOCKS * BLOCK_SIZE - 123)
    m.write([0, 5, BLOCKS - 1])
    made = [(m.backup("run000", Plan.full(m.size)), bytes(m.content))]
    for number, (how, data, zeros, growth) in enumerate(steps, start=1):
        last = block_count(m.size) - 1  # a disk that grows changes its last block
        m.grow(m.size + growth)
        m.write(sorted(set(data)))
        m.write(sorted(set(zeros)), zeros=True)
        run = f"run{number:03d}"
        if how == "compared":
            disk, _ = rebaseline(m, run)
        elif how == "full":
            m.parent = None
            disk = m.backup(run, Plan.full(m.size))
        else:
            disk = m.backup(run, m.plan(sorted({*data, *zeros, last})))
        made.append((disk, bytes(m.content)))
    for disk, content in made:
        assert m.restored(disk) == content
