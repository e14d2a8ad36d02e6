"""Packs: what goes in comes out; what was changed is refused by name; who may not read cannot."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from blake3 import blake3

from tests.repository_machine import DISK, ENCRYPTED, PLAIN, SNAPSHOT, Machine, MemoryStore
from tests.unfit_machine import with_bad_memory
from workers.extents import BLOCK_SIZE, Plan
from workers.repository import (
    DamagedObject,
    FrameReader,
    Kind,
    Pack,
    PackName,
    PackTail,
    PackWriter,
    PrivateKeys,
    RepositoryError,
    SealCheckFailed,
    read_pack_index,
    read_pack_tail,
)
from workers.repository.keys import MetadataKeys, WrongKey, unwrap
from workers.repository.pack_layout import FOOTER_SIZE
from workers.repository.sealing import SealBroken, unseal
from workers.repository.store import ObjectInfo

SIZE = 100 * BLOCK_SIZE - 1000

Flip = Callable[[str, int], None]


def frames_of(pack: Pack, tail: PackTail, keys: PrivateKeys) -> dict[int, bytes | None]:
    reader = FrameReader(keys, tail.name.key, tail.groups[0].origin)
    found: dict[int, bytes | None] = {}
    for entry in tail.entries:
        block, start = int(entry["block"]), int(entry["offset"])
        frame = pack.data[start : start + int(entry["length"])]
        hole = entry["flags"] == Kind.HOLE
        found[block] = None if hole else reader.open(block, entry["flags"], entry["hash"].tobytes(), frame)
    return found


def stored(store: MemoryStore, pack: Pack) -> ObjectInfo:
    store.objects[pack.key] = bytes(pack.data)
    return ObjectInfo(pack.key, len(pack.data))


def mixed_pack(store: MemoryStore, keys: PrivateKeys, **options: bool) -> tuple[Machine, Pack]:
    """Blocks 3 (compressible), 4 (zeros), 50 (random) and 99, the last one, 1000 bytes short."""
    machine = Machine(store, keys, SIZE)
    machine.write([3, 99])
    machine.content[50 * BLOCK_SIZE : 51 * BLOCK_SIZE] = machine.random.bytes(BLOCK_SIZE)
    return machine, machine.pack("run", machine.plan([3, 4, 50, 99]), 0, **options)


@pytest.mark.parametrize("check", [False, True])
def test_every_kind_of_block_comes_back(store: MemoryStore, keys: PrivateKeys, check: bool) -> None:
    machine, pack = mixed_pack(store, keys, check=check)
    tail = read_pack_tail(store, stored(store, pack), keys.metadata)
    content = {
        block: bytes(machine.content[block * BLOCK_SIZE : (block + 1) * BLOCK_SIZE]) for block in (3, 50, 99)
    }
    assert frames_of(pack, tail, keys) == content | {4: None}
    assert [Kind(kind) for kind in tail.entries["flags"]] == [Kind.ZSTD, Kind.HOLE, Kind.RAW, Kind.ZSTD]
    assert (pack.blocks, pack.holes, pack.plain_bytes) == (4, 1, 4 * BLOCK_SIZE - 1000)
    assert len(content[99]) == BLOCK_SIZE - 1000
    assert tail.own is not None
    assert tail.own.virtual_size == SIZE
    assert tail.own.origin[:5] == (DISK, "run", 0, SNAPSHOT, 0)


@pytest.mark.parametrize(
    "content", [b"text" * (BLOCK_SIZE // 4), os.urandom(BLOCK_SIZE)], ids=["zstd", "raw"]
)
def test_a_frame_that_is_not_what_was_sealed_is_found_where_that_is_looked_at(
    keys: PrivateKeys, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PackWriter, "_compare", with_bad_memory(PackWriter._compare))
    writer = PackWriter(
        keys.metadata.worker, disk=DISK, run="run", batch=0, snapshot=SNAPSHOT, virtual_size=SIZE, check=True
    )
    with pytest.raises(SealCheckFailed, match=r"^block 7: .*this machine must not write") as caught:
        writer.add(np.array([7]), memoryview(content))
    assert caught.value.exit_code == 4


def test_the_name_is_the_hash_of_the_object(store: MemoryStore, keys: PrivateKeys) -> None:
    _, pack = mixed_pack(store, keys)
    name = PackName.parse(pack.key)
    assert name is not None
    assert (name.disk, name.run, name.batch) == (DISK, "run", 0)
    assert name.hash == blake3(pack.data).digest(length=16)


def test_a_frame_that_does_not_shrink_is_stored_raw(store: MemoryStore) -> None:
    _, pack = mixed_pack(store, PLAIN)
    entries = read_pack_index(store, stored(store, pack), PLAIN.metadata)
    assert int(entries[entries["block"] == 50]["length"][0]) == BLOCK_SIZE


def test_the_tail_of_a_full_batch_takes_one_request(store: MemoryStore, keys: PrivateKeys) -> None:
    machine = Machine(store, keys, 512 * BLOCK_SIZE)
    machine.content[:] = machine.random.bytes(16) * (machine.size // 16)
    pack = machine.pack("run", Plan.full(machine.size), 0)
    info = stored(store, pack)
    store.requests.clear()
    assert len(read_pack_index(store, info, keys.metadata)) == 512
    assert len(store.requests) == 1


def test_an_index_longer_than_the_first_read_is_fetched_whole(
    store: MemoryStore, keys: PrivateKeys, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workers.repository.index.TAIL_READ", FOOTER_SIZE + 10)
    _, pack = mixed_pack(store, keys)
    info = stored(store, pack)
    assert len(read_pack_index(store, info, keys.metadata)) == 4
    assert len(store.requests) == 2


def test_blocks_beyond_32_bits_of_offset(store: MemoryStore, keys: PrivateKeys) -> None:
    """The last blocks of a disk of 64 TiB: byte offsets of 46 bits."""
    size = 64 << 40
    last = size // BLOCK_SIZE - 1
    writer = PackWriter(
        keys.metadata.worker, disk=DISK, run="run", batch=2**21 - 1, snapshot=SNAPSHOT, virtual_size=size
    )
    plain = os.urandom(2 * BLOCK_SIZE)
    writer.add(np.array([last - 1, last]), memoryview(plain))
    pack = writer.finish()
    tail = read_pack_tail(store, stored(store, pack), keys.metadata)
    expected = {last - 1: plain[:BLOCK_SIZE], last: plain[BLOCK_SIZE:]}
    assert frames_of(pack, tail, keys) == expected


def test_a_zero_short_last_block_is_a_hole(store: MemoryStore, keys: PrivateKeys) -> None:
    machine = Machine(store, keys, BLOCK_SIZE + 5)
    pack = machine.pack("run", Plan.full(machine.size), 0)
    assert pack.holes == 2
    machine.content[-1] = 1
    assert machine.pack("run", Plan.full(machine.size), 0).holes == 1


@pytest.mark.parametrize(
    ("blocks", "length"),
    [
        pytest.param([4, 3], 2 * BLOCK_SIZE, id="descending"),
        pytest.param([3, 3], 2 * BLOCK_SIZE, id="twice"),
        pytest.param([2], BLOCK_SIZE, id="before what was added"),
        pytest.param([100], BLOCK_SIZE, id="beyond the disk"),
        pytest.param([3, 4], BLOCK_SIZE, id="too few bytes"),
        pytest.param([99], BLOCK_SIZE, id="last block not short"),
    ],
)
def test_blocks_that_do_not_fit_are_refused(keys: PrivateKeys, blocks: list[int], length: int) -> None:
    writer = PackWriter(
        keys.metadata.worker, disk=DISK, run="run", batch=0, snapshot=SNAPSHOT, virtual_size=SIZE
    )
    writer.add(np.array([2]), memoryview(bytes(BLOCK_SIZE)))
    with pytest.raises(RepositoryError):
        writer.add(np.array(blocks), memoryview(bytes(length)))


def test_more_than_a_batch_is_refused(keys: PrivateKeys) -> None:
    writer = PackWriter(
        keys.metadata.worker, disk=DISK, run="run", batch=0, snapshot=SNAPSHOT, virtual_size=1 << 30
    )
    with pytest.raises(RepositoryError, match="at most 512"):
        writer.add(np.arange(513), memoryview(bytes(513 * BLOCK_SIZE)))


def test_worker_keys_cannot_open_what_they_sealed(store: MemoryStore) -> None:
    """With all that a worker's file holds: no wrapped key opens, and no key at hand opens index or frame."""
    _, pack = mixed_pack(store, ENCRYPTED)
    tail = read_pack_tail(store, stored(store, pack), ENCRYPTED.metadata)
    worker, origin = ENCRYPTED.metadata.worker, tail.groups[0].origin
    secrets = (worker.hash_key, worker.data_public_key, worker.metadata_public_key)
    entry = tail.entries[0]
    frame = pack.data[int(entry["offset"]) : int(entry["offset"] + entry["length"])]
    for key in secrets:
        with pytest.raises(DamagedObject):
            read_pack_index(store, ObjectInfo(pack.key, len(pack.data)), MetadataKeys(worker, key, key, key))
        with pytest.raises(WrongKey):
            unwrap(origin.data_key, key, b"")
        with pytest.raises(DamagedObject):
            FrameReader(PrivateKeys(MetadataKeys(worker, key, key, key), (key,)), tail.name.key, origin)
        with pytest.raises(SealBroken):
            unseal(key, 3, frame, b"")


def test_metadata_keys_read_the_index_and_no_frame(store: MemoryStore) -> None:
    _, pack = mixed_pack(store, ENCRYPTED)
    metadata = ENCRYPTED.metadata
    tail = read_pack_tail(store, stored(store, pack), metadata)
    for key in (metadata.private_key, metadata.seal_key):
        with pytest.raises(DamagedObject, match="does not open"):
            FrameReader(PrivateKeys(metadata, (key,)), tail.name.key, tail.groups[0].origin)


def test_no_plain_byte_is_in_an_encrypted_pack(store: MemoryStore) -> None:
    machine = Machine(store, ENCRYPTED, SIZE)
    needle = bytes(range(64))
    machine.content[: len(needle)] = needle
    assert needle not in bytes(machine.pack("run", machine.plan([0]), 0).data)
    clear = replace(machine, keys=PLAIN)
    clear.content[: len(needle)] = needle
    assert needle in bytes(clear.pack("run", clear.plan([0]), 0).data)


REGIONS = {  # positions from the end of the object
    "index key": -FOOTER_SIZE + 3,
    "frames end": -FOOTER_SIZE + 80,
    "index length": -FOOTER_SIZE + 88,
    "version": -FOOTER_SIZE + 92,
    "flags": -FOOTER_SIZE + 94,
    "signer": -FOOTER_SIZE + 96,
    "signature": -FOOTER_SIZE + 112,
    "end of the signature": -9,
    "magic": -1,
    "index": -FOOTER_SIZE - 20,
    "index tag": -FOOTER_SIZE - 1,
}


@pytest.mark.parametrize("region", REGIONS)
def test_each_damaged_part_of_the_tail_is_one_named_error(
    store: MemoryStore, keys: PrivateKeys, damage: Flip, region: str
) -> None:
    _, pack = mixed_pack(store, keys)
    info = stored(store, pack)
    damage(pack.key, REGIONS[region])
    with pytest.raises(DamagedObject) as caught:
        read_pack_index(store, info, keys.metadata)
    assert caught.value.object == pack.key
    assert pack.key in str(caught.value)
    assert "\n" not in str(caught.value)


def test_each_damaged_frame_is_named_with_its_block(store: MemoryStore, keys: PrivateKeys) -> None:
    _, pack = mixed_pack(store, keys)
    tail = read_pack_tail(store, stored(store, pack), keys.metadata)
    reader = FrameReader(keys, tail.name.key, tail.groups[0].origin)
    for entry in tail.entries[tail.entries["flags"] != Kind.HOLE]:
        start, length, block = int(entry["offset"]), int(entry["length"]), int(entry["block"])
        good = bytes(pack.data[start : start + length])
        reader.open(block, int(entry["flags"]), entry["hash"].tobytes(), good)
        broken = [
            good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :] for at in (0, 5, length // 2, length - 1)
        ]
        for frame in (*broken, good[:-1], good + b"x", b"", bytes(length)):
            with pytest.raises(DamagedObject) as caught:
                reader.open(block, int(entry["flags"]), entry["hash"].tobytes(), frame)
            assert (caught.value.object, caught.value.block) == (pack.key, block)
        for kind in {0, 1, 2, 9} - {int(entry["flags"])}:
            with pytest.raises(DamagedObject):
                reader.open(block, kind, entry["hash"].tobytes(), good)


def test_a_frame_of_another_block_disk_run_snapshot_or_repository_does_not_open(store: MemoryStore) -> None:
    _, pack = mixed_pack(store, ENCRYPTED)
    tail = read_pack_tail(store, stored(store, pack), ENCRYPTED.metadata)
    entry = tail.entries[0]
    frame = bytes(pack.data[int(entry["offset"]) : int(entry["offset"] + entry["length"])])
    origin = tail.groups[0].origin
    reader = FrameReader(ENCRYPTED, tail.name.key, origin)
    with pytest.raises(DamagedObject, match="seal is broken"):
        reader.open(4, int(entry["flags"]), entry["hash"].tobytes(), frame)
    elsewhere = PrivateKeys.from_masters("00000000-0000-0000-0000-000000000000", [b"m" * 32])
    for keys, other in (
        (ENCRYPTED, origin._replace(disk="other")),
        (ENCRYPTED, origin._replace(run="other")),
        (ENCRYPTED, origin._replace(batch=1)),
        (ENCRYPTED, origin._replace(snapshot="other")),
        (ENCRYPTED, origin._replace(generation=1)),
        (elsewhere, origin),
    ):
        with pytest.raises(DamagedObject, match=r"does not open|newer than the private key"):
            FrameReader(keys, tail.name.key, other)


@pytest.mark.parametrize(
    ("part", "other"), [(DISK, "other"), ("/run/", "/other/"), ("/00000000-", "/00000001-")]
)
def test_a_pack_under_another_name_does_not_open(
    store: MemoryStore, keys: PrivateKeys, part: str, other: str
) -> None:
    _, pack = mixed_pack(store, keys)
    key = pack.key.replace(part, other)
    store.objects[key] = bytes(pack.data)
    with pytest.raises(DamagedObject, match="index"):
        read_pack_index(store, ObjectInfo(key, len(pack.data)), keys.metadata)


@pytest.mark.parametrize("keep", [0, 10, 199, 200, -1, -FOOTER_SIZE, -FOOTER_SIZE - 5])
def test_a_cut_pack_is_damaged(store: MemoryStore, keys: PrivateKeys, keep: int) -> None:
    _, pack = mixed_pack(store, keys)
    store.objects[pack.key] = bytes(pack.data)[:keep]
    with pytest.raises(DamagedObject):
        read_pack_index(store, ObjectInfo(pack.key, len(store.objects[pack.key])), keys.metadata)


def test_noise_is_damaged_and_allocates_nothing(store: MemoryStore, keys: PrivateKeys) -> None:
    key = f"packs/{DISK}/run/00000000-{'0' * 32}"
    random = np.random.default_rng(3)
    for size in (1, 200, 5000):
        store.objects[key] = random.bytes(size)
        with pytest.raises(DamagedObject):
            read_pack_index(store, ObjectInfo(key, size), keys.metadata)


def test_a_pack_of_the_other_kind_of_repository_is_refused(store: MemoryStore) -> None:
    _, pack = mixed_pack(store, ENCRYPTED)
    with pytest.raises(DamagedObject, match="encrypted"):
        read_pack_index(store, stored(store, pack), PLAIN.metadata)
