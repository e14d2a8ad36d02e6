"""Objects that are well sealed and make no sense: in an unencrypted repository anyone can make them."""

from __future__ import annotations

import struct

import pytest
from blake3 import blake3

from tests.repository_machine import DISK, PLAIN, SNAPSHOT, VM, Machine, MemoryStore
from workers.extents import BLOCK_SIZE, Plan
from workers.repository import (
    DamagedObject,
    FrameReader,
    Kind,
    Origin,
    PackName,
    Repository,
    read_pack_index,
    read_pack_tail,
)
from workers.repository.compression import compress
from workers.repository.envelope import seal_object
from workers.repository.keys import NO_WRAPPED_KEY
from workers.repository.naming import binding
from workers.repository.point import encode_point
from workers.repository.sealing import mark
from workers.repository.store import ObjectInfo

TERABYTES = bytes.fromhex("28b52ffde0") + struct.pack("<Q", 1 << 42) + compress(b"{}")[6:]
"""A zstd frame that claims 4 TiB of content."""

Row = tuple[int, int, int]
OWN = Origin(DISK, "run", 0, SNAPSHOT, 0, NO_WRAPPED_KEY)


def crafted_pack(
    rows: list[Row],
    *,
    size: int = 10 * BLOCK_SIZE,
    frames: int = 30,
    count: int | None = None,
    groups: list[tuple[Origin, int]] | None = None,
    group_count: int | None = None,
) -> bytes:
    """A pack with these entries (block, length, kind) and `frames` bytes of frames; `groups` are origins and
    how many of the entries are theirs."""
    number = len(rows) if count is None else count
    parts = [(OWN, number)] if groups is None else groups
    index = struct.pack("<II", len(parts) if group_count is None else group_count, number)
    for origin, blocks in parts:
        for name in (origin.disk, origin.run, origin.snapshot):
            index += bytes([len(name)]) + name.encode()
        index += struct.pack("<IIQI", origin.batch, origin.generation, size, blocks) + origin.data_key
    for column, form in enumerate(("<Q", "<I", "<B")):
        index += b"".join(struct.pack(form, row[column]) for row in rows)
    compressed = compress(index + bytes(16 * len(rows)))
    facts = struct.pack("<QIHH", 16 + frames, len(compressed) + 16, 1, 0)
    associated = binding("index", PLAIN.repository, DISK, "run", 0) + b"\0" + facts
    footer = NO_WRAPPED_KEY + facts + bytes(80) + b"CBTFTAIL"
    sealed = mark(PLAIN.metadata.worker.hash_key, 0, compressed, associated)
    return struct.pack("<8sHHI", b"CBTFPACK", 1, 0, 0) + bytes(frames) + sealed + footer


GOOD: list[Row] = [(2, 10, Kind.RAW), (3, 0, Kind.HOLE), (9, 20, Kind.ZSTD)]


@pytest.mark.parametrize(
    ("pack", "why"),
    [
        pytest.param(crafted_pack(GOOD), None, id="good"),
        pytest.param(crafted_pack([GOOD[1], GOOD[0], GOOD[2]]), "ascend", id="descending"),
        pytest.param(crafted_pack([GOOD[0], GOOD[0]], frames=20), "ascend", id="twice"),
        pytest.param(crafted_pack(GOOD, size=9 * BLOCK_SIZE), "ascend", id="beyond the disk"),
        pytest.param(crafted_pack(GOOD, frames=31), "do not end", id="bytes left over"),
        pytest.param(crafted_pack(GOOD, frames=29), "do not end", id="frame beyond the end"),
        pytest.param(crafted_pack(GOOD, size=1 << 60), "impossible sizes", id="absurd disk"),
        pytest.param(crafted_pack(GOOD, count=1 << 31), "impossible sizes", id="billions of entries"),
        pytest.param(crafted_pack(GOOD, count=2), "impossible sizes", id="entries left over"),
        pytest.param(crafted_pack([(1, 65537, 0)], frames=65537), "impossible kind", id="frame too long"),
        pytest.param(crafted_pack([(1, 30, Kind.HOLE)]), "impossible kind", id="hole with bytes"),
        pytest.param(crafted_pack([(1, 0, Kind.RAW)], frames=0), "impossible kind", id="frame without bytes"),
        pytest.param(crafted_pack([(1, 30, 3)]), "impossible kind", id="unknown kind"),
        pytest.param(crafted_pack(GOOD, groups=[(OWN, 2)]), "impossible sizes", id="entries of no group"),
        pytest.param(crafted_pack(GOOD, groups=[]), "impossible sizes", id="no group"),
        pytest.param(crafted_pack(GOOD, group_count=1 << 31), "impossible sizes", id="billions of groups"),
        pytest.param(crafted_pack(GOOD, group_count=2), "proper names", id="fewer groups than it says"),
        pytest.param(
            crafted_pack(GOOD, groups=[(OWN._replace(run="a/b"), 3)]), "proper names", id="improper name"
        ),
        pytest.param(
            crafted_pack(GOOD, groups=[(OWN._replace(batch=10**8), 3)]), "impossible", id="absurd batch"
        ),
        pytest.param(
            crafted_pack(GOOD, groups=[(OWN._replace(generation=256), 3)]), "impossible", id="generation"
        ),
        pytest.param(
            crafted_pack(GOOD, groups=[(OWN._replace(run="old"), 3)]), "impossible kind", id="copied hole"
        ),
    ],
)
def test_a_pack_whose_index_cannot_be_is_damaged(store: MemoryStore, pack: bytes, why: str | None) -> None:
    key = PackName(DISK, "run", 0, blake3(pack).digest(length=16)).key
    store.objects[key] = pack
    info = ObjectInfo(key, len(pack))
    if why is None:
        entries = read_pack_index(store, info, PLAIN.metadata)
        assert [(int(e["block"]), int(e["offset"]), int(e["length"])) for e in entries] == [
            (2, 16, 10),
            (3, 26, 0),
            (9, 26, 20),
        ]
    else:
        with pytest.raises(DamagedObject, match=why):
            read_pack_index(store, info, PLAIN.metadata)


def test_copied_frames_keep_what_they_were_sealed_as(store: MemoryStore) -> None:
    """The same block of two disks and two runs in one object: in each group the blocks ascend."""
    origins = [OWN._replace(run="old", batch=7), OWN._replace(disk="other", snapshot="x", generation=2)]
    rows: list[Row] = [(3, 5, Kind.RAW), (9, 10, Kind.ZSTD), (3, 15, Kind.RAW)]
    pack = crafted_pack(rows, groups=[(origins[0], 2), (origins[1], 1)])
    key = PackName(DISK, "run", 0, blake3(pack).digest(length=16)).key
    store.objects[key] = pack
    tail = read_pack_tail(store, ObjectInfo(key, len(pack)), PLAIN.metadata)
    assert [(group.origin, group.blocks) for group in tail.groups] == [(origins[0], 2), (origins[1], 1)]
    assert tail.entries["offset"].tolist() == [16, 21, 31]
    assert tail.own is None


def test_frames_of_another_run_are_no_pack_of_a_batch(store: MemoryStore) -> None:
    """Though their index opens under this name."""
    plan = Plan.full(2 * BLOCK_SIZE)
    rows: list[Row] = [(0, 10, Kind.RAW), (1, 20, Kind.RAW)]
    pack = crafted_pack(rows, size=plan.virtual_size, groups=[(OWN._replace(run="old"), 2)])
    key = PackName(DISK, "run", 0, blake3(pack).digest(length=16)).key
    store.objects[key] = pack
    with pytest.raises(DamagedObject, match="its frames were not written for its batch"):
        Repository.open(store, PLAIN).write_segments("run", DISK, SNAPSHOT, plan, None)


@pytest.mark.parametrize(
    "frame", [TERABYTES, compress(bytes(BLOCK_SIZE + 1)), compress(b"x") + b"y", b"noise"]
)
def test_a_frame_that_claims_too_much_is_damaged(frame: bytes) -> None:
    reader = FrameReader(PLAIN, PackName(DISK, "run", 0, bytes(16)).key, OWN)
    with pytest.raises(DamagedObject, match="block 7"):
        reader.open(7, Kind.ZSTD, bytes(16), frame)


def test_a_point_under_another_points_key_is_damaged(store: MemoryStore) -> None:
    machine = Machine(store, PLAIN, 10 * BLOCK_SIZE)
    point = machine.point("run1", machine.backup("run0", Plan.full(machine.size)).segments)
    for key in (
        point.key.replace("run1", "run2"),
        point.key.replace(point.id, "0123456789ab"),
        point.key.replace(VM, "other"),
    ):
        store.objects[key] = seal_object(PLAIN.metadata, key, [encode_point(point)])
        with pytest.raises(DamagedObject, match="another restore point"):
            list(Repository.open(store, PLAIN).points())
        del store.objects[key]
