"""Points, runs and plans: written once, found again, named when damaged."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from dataclasses import replace

import pytest

from tests.repository_machine import DISK, ENCRYPTED, PLAIN, SNAPSHOT, VM, Machine, MemoryStore
from workers.extents import BATCH_BLOCKS, BLOCK_SIZE, Plan
from workers.repository import (
    AlreadyWritten,
    DamagedObject,
    Point,
    PointAmbiguous,
    PointNotFound,
    PrivateKeys,
    Repository,
    RepositoryError,
    RunEnded,
    StoredBatches,
    point_id,
)
from workers.repository.compression import compress
from workers.repository.envelope import seal_object
from workers.repository.keys import MetadataKeys
from workers.repository.naming import binding
from workers.repository.point import encode_point
from workers.repository.sealing import mark
from workers.repository.store import ObjectMissing

Flip = Callable[[str, int], None]
SIZE = 100 * BLOCK_SIZE


@pytest.fixture
def repository(store: MemoryStore, keys: PrivateKeys) -> Repository:
    return Repository.open(store, keys)


@pytest.fixture
def a_point(store: MemoryStore, keys: PrivateKeys) -> Callable[[str], Point]:
    machine = Machine(store, keys, SIZE)
    machine.write([3])
    segments = machine.backup("run0", Plan.full(SIZE)).segments
    return lambda run: machine.point(run, segments)


def test_a_point_comes_back_and_may_be_committed_again(
    repository: Repository, a_point: Callable[[str], Point], store: MemoryStore
) -> None:
    point = a_point("run1")
    repository.commit_point(point)
    before = dict(store.objects)
    repository.commit_point(point)
    assert store.objects == before
    assert list(repository.points()) == [point]
    assert store.requests[-1][1] == point.key == f"points/{VM}/run1-{point_id('run1', VM)}"
    with pytest.raises(AlreadyWritten):
        repository.commit_point(replace(point, vm="another name"))


def test_points_ascend_by_run_over_all_vms(repository: Repository, a_point: Callable[[str], Point]) -> None:
    points = [
        replace(a_point(f"run{number}"), vm_uuid=vm, id=point_id(f"run{number}", vm))
        for number, vm in ((1, "vm-b"), (2, "vm-a"), (3, "vm-b"))
    ]
    for point in reversed(points):
        repository.commit_point(point)
    assert list(repository.points()) == points
    assert list(repository.points("vm-b")) == [points[0], points[2]]
    assert list(repository.points("vm")) == []
    assert repository.latest_disk("vm-b", DISK) == points[2].disks[0]
    assert repository.latest_disk("vm-b", "no such disk") is None


def test_the_latest_point_that_holds_a_disk_is_found(
    repository: Repository, a_point: Callable[[str], Point]
) -> None:
    first, second = a_point("run1"), replace(a_point("run2"), disks=())
    repository.commit_point(first)
    repository.commit_point(second)
    assert repository.latest_disk(VM, DISK) == first.disks[0]


def test_points_are_found_by_the_beginning_of_their_id(
    repository: Repository, a_point: Callable[[str], Point]
) -> None:
    points = [a_point(f"run{number}") for number in range(1, 30)]
    for point in points:
        repository.commit_point(point)
    assert repository.find_point(points[4].id) == points[4]
    assert repository.find_point(points[4].id[:8].upper()) == points[4]
    for unknown in ("", "zz", "0" * 13):
        with pytest.raises(PointNotFound, match="no restore point"):
            repository.find_point(unknown)
    shared = next(a.id[0] for a in points for b in points if a is not b and a.id[0] == b.id[0])
    with pytest.raises(PointAmbiguous, match="begin with"):
        repository.find_point(shared)


@pytest.mark.parametrize(
    "change",
    [{"id": "0123456789ab"}, {"run": "run/1"}, {"vm_uuid": "a/b"}, {"vm_uuid": "../x"}],
    ids=str,
)
def test_a_point_that_could_not_be_found_again_is_not_committed(
    repository: Repository, a_point: Callable[[str], Point], store: MemoryStore, change: dict[str, str]
) -> None:
    with pytest.raises(RepositoryError):
        repository.commit_point(replace(a_point("run1"), **change))
    assert not [key for key in store.objects if key.startswith("points/")]


def test_a_damaged_cut_or_swapped_point_is_one_named_error(
    repository: Repository, a_point: Callable[[str], Point], store: MemoryStore, damage: Flip
) -> None:
    first, second = a_point("run1"), a_point("run2")
    repository.commit_point(first)
    repository.commit_point(second)
    good = store.objects[first.key]
    for position in (0, 9, 11, 13, 30, 50, 60, 70, len(good) // 2, -1):
        damage(first.key, position)
        with pytest.raises(DamagedObject) as caught:
            repository.find_point(first.id)
        assert caught.value.object == first.key
        store.objects[first.key] = good
    for data in (b"", good[:47], good[:-1], good + b"x", bytes(500), store.objects[second.key]):
        store.objects[first.key] = data
        with pytest.raises(DamagedObject, match=first.key):
            repository.find_point(first.id)


@pytest.mark.parametrize(
    "text",
    [b"", b"{", b"[]", b'{"id": 5}', b"\xff\xfe"],
)
def test_a_sealed_point_that_is_none_is_damaged(
    repository: Repository, keys: PrivateKeys, store: MemoryStore, text: bytes
) -> None:
    key = f"points/{VM}/20261122T000100Z-0123456789ab"
    store.objects[key] = seal_object(keys.metadata, key, [text])
    with pytest.raises(DamagedObject, match=key):
        list(repository.points())


def test_members_of_a_later_version_are_ignored(
    repository: Repository, keys: PrivateKeys, store: MemoryStore, a_point: Callable[[str], Point]
) -> None:
    point = a_point("run1")
    facts = json.loads(encode_point(point)) | {"weather": "fair"}
    facts["disks"][0]["colour"] = "blue"
    store.objects[point.key] = seal_object(keys.metadata, point.key, [json.dumps(facts).encode()])
    assert list(repository.points()) == [point]


def test_a_worker_cannot_forge_or_read_a_point(store: MemoryStore) -> None:
    """Sealing is symmetric, with a key that no public key leads to."""
    worker = ENCRYPTED.metadata.worker
    key = f"points/{VM}/20261122T000100Z-0123456789ab"
    for guess in (worker.hash_key, worker.data_public_key, worker.metadata_public_key):
        store.objects[key] = seal_object(MetadataKeys(worker, guess, guess, guess), key, [b"{}"])
        with pytest.raises(DamagedObject, match="seal is broken"):
            list(Repository.open(store, ENCRYPTED).points())
    store.objects[key] = seal_object(PLAIN.metadata, key, [b"{}"])
    with pytest.raises(DamagedObject, match="not encrypted"):
        list(Repository.open(store, ENCRYPTED).points())


def marked(key: str, compressed: bytes, claimed: int) -> bytes:
    """An object of an unencrypted repository with a good checksum, as anyone could make it."""
    header = struct.pack("<8sHHI32sQQ", b"CBTFMETA", 1, 0, 1, bytes(32), claimed, len(compressed) + 16)
    associated = binding("object", PLAIN.repository, key) + b"\0" + header
    return header + mark(PLAIN.metadata.worker.hash_key, 0, compressed, associated)


def test_sizes_are_checked_before_they_are_believed(store: MemoryStore) -> None:
    """A zstd frame may claim any size, and so may a header."""
    key = "runs/run1/result"
    terabytes = bytes.fromhex("28b52ffde0") + struct.pack("<Q", 1 << 42) + compress(b"{}")[6:]
    for compressed, claimed in (
        (compress(b"{}"), 3),
        (compress(b"{}"), 1),
        (compress(b"{}"), 1 << 42),
        (terabytes, 1 << 42),
        (terabytes, 2),
        (compress(b"{}") + b"behind", 2),
        (b"", 2),
    ):
        store.objects[key] = marked(key, compressed, claimed)
        with pytest.raises(DamagedObject, match=key):
            Repository.open(store, PLAIN).result("run1")
    store.objects[key] = marked(key, compress(b"{}"), 2)
    assert Repository.open(store, PLAIN).result("run1") == b"{}"


def test_a_header_that_claims_terabytes_allocates_nothing(store: MemoryStore) -> None:
    key = "runs/run1/result"
    good = bytearray(seal_object(PLAIN.metadata, key, [b"{}"]))
    for plain, stored in ((1 << 42, len(good) - 64), (2, 1 << 42), (1 << 63, 1 << 63), (2, 0)):
        good[48:64] = struct.pack("<QQ", plain, stored)
        store.objects[key] = bytes(good)
        with pytest.raises(DamagedObject, match=key):
            Repository.open(store, PLAIN).result("run1")


def test_a_plan_is_kept_once(repository: Repository, store: MemoryStore, damage: Flip) -> None:
    plan = Plan.from_bitmap(bytes(range(13)), SIZE - 5)
    repository.keep_plan("run1", DISK, plan)
    repository.keep_plan("run1", DISK, plan)
    assert repository.plan("run1", DISK) == plan
    with pytest.raises(AlreadyWritten):
        repository.keep_plan("run1", DISK, Plan.full(SIZE - 5))
    with pytest.raises(ObjectMissing):
        repository.plan("run2", DISK)
    damage(f"bitmaps/{DISK}/run1", -3)
    with pytest.raises(DamagedObject, match=f"bitmaps/{DISK}/run1"):
        repository.plan("run1", DISK)


def test_the_bitmap_of_a_large_disk_is_kept(store: MemoryStore) -> None:
    plan = Plan.full(8 << 40)
    repository = Repository.open(store, ENCRYPTED)
    repository.keep_plan("run1", DISK, plan)
    assert len(store.objects[f"bitmaps/{DISK}/run1"]) < 100_000
    assert repository.plan("run1", DISK).batches == 2**18


def test_a_run_is_open_until_it_has_a_result(repository: Repository, store: MemoryStore) -> None:
    assert not repository.run_is_open("run1")
    repository.open_run("run1", b"open")
    repository.open_run("run1", b"open")
    assert repository.run_is_open("run1")
    assert list(repository.open_runs()) == ["run1"]
    assert repository.result("run1") is None
    repository.close_run("run1", b"succeeded")
    repository.close_run("run1", b"something else")
    assert not repository.run_is_open("run1")
    assert repository.result("run1") == b"succeeded"
    with pytest.raises(RunEnded, match="run1"):
        repository.open_run("run1", b"open")
    repository.close_run("run2", b"failed")
    assert list(repository.ended_runs()) == ["run1", "run2"]
    assert repository.result("run2") == b"failed"


def test_a_crash_between_result_and_the_end_of_open_is_made_good(
    repository: Repository, store: MemoryStore
) -> None:
    repository.open_run("run1", b"open")
    left = store.objects["runs/run1/open"]
    repository.close_run("run1", b"succeeded")
    store.objects["runs/run1/open"] = left
    repository.close_run("run1", b"succeeded")
    assert not repository.run_is_open("run1")


def test_a_vm_of_a_run_is_recorded_once_and_until_the_run_has_ended(
    repository: Repository, store: MemoryStore
) -> None:
    assert repository.open_record("run1") is None
    assert repository.open_run("run1", b"first") == b"first"
    assert repository.open_run("run1", b"second") == b"first" == repository.open_record("run1")
    assert repository.run_vm("run1", VM) is None
    assert repository.keep_run_vm("run1", VM, b"one") == b"one"
    assert repository.keep_run_vm("run1", VM, b"two") == b"one"
    assert repository.run_vm("run1", VM) == b"one"
    assert list(repository.open_runs()) == ["run1"]
    assert list(repository.ended_runs()) == []
    repository.close_run("run1", b"succeeded")
    assert [key for key in store.objects if key.startswith("runs/")] == ["runs/run1/result"]


def test_batches_with_a_pack_are_found_with_their_bytes(store: MemoryStore, repository: Repository) -> None:
    size = 3 * BATCH_BLOCKS * BLOCK_SIZE - 512  # the disk's last block is short
    plan = Plan.full(size)
    assert repository.stored_batches("run1", DISK, SNAPSHOT, plan) == StoredBatches(frozenset(), 0, 0)
    for batch, tag_of in ((0, "a"), (2, "c"), (7, "d")):
        store.put_if_absent(f"packs/{DISK}/run1/{batch:08d}-{tag_of * 32}", b"12345")
    store.put_if_absent(f"packs/{DISK}/run2/00000001-{'e' * 32}", b"12345")
    found = repository.stored_batches("run1", DISK, SNAPSHOT, plan)
    assert found == StoredBatches(frozenset({0, 2}), 2 * BATCH_BLOCKS * BLOCK_SIZE - 512, 10)


def test_the_point_of_a_run_is_found(repository: Repository, a_point: Callable[[str], Point]) -> None:
    assert repository.point_of_run("run1", VM) is None
    repository.commit_point(a_point("run1"))
    repository.commit_point(a_point("run2"))
    assert repository.point_of_run("run1", VM) == a_point("run1")
    assert repository.point_of_run("run1", "another-vm") is None


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a\0b", "ü", "x" * 129, ".hidden"])
def test_names_that_cannot_be_keys_are_refused(repository: Repository, name: str) -> None:
    with pytest.raises(RepositoryError):
        repository.open_run(name, b"")
