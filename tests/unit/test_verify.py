"""Verifying: nothing is said of sound points, and every damage is named exactly."""

from __future__ import annotations

import pytest

from tests.repository_machine import DISK, ENCRYPTED, PLAIN, Machine, MemoryStore
from workers.extents import BLOCK_SIZE, Plan
from workers.repository import Damage, Point, PrivateKeys, StoreUnavailable, Verified, verify_points
from workers.repository.index import read_pack_tail
from workers.repository.store import ObjectInfo

SIZE = 600 * BLOCK_SIZE + 512
WRITTEN = 400
"""Blocks of the first point that are no holes."""


@pytest.fixture(params=[ENCRYPTED, PLAIN], ids=["encrypted", "unencrypted"])
def keys(request: pytest.FixtureRequest) -> PrivateKeys:
    found: PrivateKeys = request.param
    return found


class Bucket:
    """Two points of one disk: all 600 blocks in two packs, then three blocks in a third."""

    def __init__(self, keys: PrivateKeys) -> None:
        self.keys = keys
        self.store = MemoryStore()
        self.machine = Machine(self.store, keys, SIZE)
        self.machine.write([*range(300), *range(501, 601)])
        self.points = [self._backup("run1", Plan.full(SIZE))]
        self.machine.write([7, 8, 600])
        self.points.append(self._backup("run2", self.machine.plan([7, 8, 600])))
        self.packs = sorted(key for key in self.store.objects if key.startswith("packs/"))
        self.segments = sorted(key for key in self.store.objects if key.startswith("segments/"))

    def _backup(self, run: str, plan: Plan) -> Point:
        return self.machine.point(run, self.machine.backup(run, plan).segments)

    def verify(self, points: list[Point] | None = None, **options: int) -> Verified:
        return verify_points(self.store, self.keys, points or self.points, threads=3, **options)  # type: ignore[arg-type]

    def frames(self, pack: int) -> dict[int, tuple[int, int]]:
        """Block -> offset and length of its frame."""
        key = self.packs[pack]
        info = ObjectInfo(key, len(self.store.objects[key]))
        entries = read_pack_tail(self.store, info, self.keys.metadata).entries
        return {
            int(entry["block"]): (int(entry["offset"]), int(entry["length"]))
            for entry in entries
            if entry["length"]
        }

    def flip(self, key: str, position: int) -> None:
        data = bytearray(self.store.objects[key])
        data[position] ^= 1
        self.store.objects[key] = bytes(data)


@pytest.fixture
def bucket(keys: PrivateKeys) -> Bucket:
    return Bucket(keys)


def named(found: Verified) -> set[tuple[str, int | None]]:
    return {(damage.object, damage.block) for damage in found.damaged}


def test_sound_points_share_their_frames(bucket: Bucket) -> None:
    bucket.store.requests.clear()
    seen: list[int] = []
    found = verify_points(bucket.store, bucket.keys, bucket.points, threads=2, progress=seen.append)
    assert found.damaged == []
    assert found.checked_frames == found.frames == WRITTEN + 3
    lengths = [length for pack in range(3) for _, length in bucket.frames(pack).values()]
    assert found.checked_bytes == sum(seen) == sum(lengths)
    asked = [key for verb, key in bucket.store.requests if verb == "get"]
    assert sorted(key for key in asked if key.startswith("segments/")) == bucket.segments


def test_each_point_alone(bucket: Bucket) -> None:
    assert bucket.verify([bucket.points[0]]).checked_frames == WRITTEN
    assert bucket.verify([bucket.points[1]]).checked_frames == WRITTEN + 3


def test_nothing_to_verify(bucket: Bucket) -> None:
    assert verify_points(bucket.store, bucket.keys, []) == Verified(0, 0, 0, [])


def test_a_merged_history_is_checked_once(keys: PrivateKeys) -> None:
    bucket = Bucket(keys)
    points = bucket.points
    for number in range(3, 22):
        bucket.machine.write([number])
        points.append(bucket._backup(f"run{number}", bucket.machine.plan([number])))
    assert any("merged" in segment.key for segment in points[-1].disks[0].segments)
    found = bucket.verify(points)
    assert found.damaged == []
    assert found.checked_frames == WRITTEN + 3 + 19
    alone = bucket.verify([points[-1]])
    assert alone.damaged == []
    assert alone.checked_frames < WRITTEN + 3 + 19


def test_a_byte_of_a_frame(bucket: Bucket) -> None:
    frames = bucket.frames(0)
    for block, position in ((3, 0), (250, -1), (299, 5)):
        offset, length = frames[block]
        bucket.flip(bucket.packs[0], offset + position % length)
    offset, length = bucket.frames(2)[600]
    bucket.flip(bucket.packs[2], offset + length // 2)
    found = bucket.verify()
    assert named(found) == {
        (bucket.packs[0], 3),
        (bucket.packs[0], 250),
        (bucket.packs[0], 299),
        (bucket.packs[2], 600),
    }
    assert found.checked_frames == WRITTEN + 3
    assert named(bucket.verify([bucket.points[0]])) == {(bucket.packs[0], block) for block in (3, 250, 299)}


@pytest.mark.parametrize("position", [0, 3, 15, -1, -100, -184, -185, -400])
def test_a_byte_of_a_pack_that_no_restore_reads(bucket: Bucket, position: int) -> None:
    """Header, footer and index: any change is found, though frames are whole."""
    bucket.flip(bucket.packs[1], position)
    found = bucket.verify()
    assert named(found) == {(bucket.packs[1], None)}
    assert found.checked_frames == WRITTEN + 3


def test_every_byte_of_a_small_pack_matters(bucket: Bucket) -> None:
    key = bucket.packs[2]
    whole = bucket.store.objects[key]
    for position in range(0, len(whole), max(1, len(whole) // 60)):
        bucket.store.objects[key] = whole
        bucket.flip(key, position)
        assert {damage.object for damage in bucket.verify([bucket.points[1]]).damaged} == {key}, position


def test_a_pack_lost(bucket: Bucket) -> None:
    bucket.store.delete(bucket.packs[0])
    found = bucket.verify()
    assert found.damaged == [Damage(bucket.packs[0], None, "it is not in the store")]
    assert found.checked_frames == WRITTEN + 3 - 300 - len(range(501, 512))


def test_a_pack_cut(bucket: Bucket) -> None:
    """Said once; the frames before the cut are still checked, so a second damage there is found."""
    frames = bucket.frames(0)
    bucket.flip(bucket.packs[0], frames[2][0])
    whole = len(bucket.store.objects[bucket.packs[0]])
    end = frames[10][0] + 1
    bucket.store.objects[bucket.packs[0]] = bucket.store.objects[bucket.packs[0]][:end]
    found = bucket.verify()
    assert set(found.damaged) == {
        Damage(bucket.packs[0], None, f"it has {end} bytes, not {whole}"),
        Damage(bucket.packs[0], 2, next(damage.why for damage in found.damaged if damage.block == 2)),
    }
    assert found.checked_frames == WRITTEN + 3 - 300 - 11 + 10


def test_two_packs_swapped(bucket: Bucket) -> None:
    objects, (first, second, third) = bucket.store.objects, bucket.packs
    blocks = [set(bucket.frames(0)), set(bucket.frames(1))]
    objects[first], objects[second] = objects[second], objects[first]
    found = named(bucket.verify())
    assert {(first, None), (second, None)} <= found
    assert {block for key, block in found if key == second} - {None} == blocks[1]
    assert {key for key, _ in found} == {first, second}
    assert third not in {key for key, _ in found}


def test_swapped_packs_of_one_size_are_damaged_in_every_block(keys: PrivateKeys) -> None:
    store = MemoryStore()
    machine = Machine(store, keys, 4 * BLOCK_SIZE)
    points = []
    for run in ("run1", "run2"):
        machine.content[:] = machine.random.bytes(4 * BLOCK_SIZE)
        points.append(machine.point(run, machine.backup(run, Plan.full(machine.size)).segments))
    first, second = sorted(key for key in store.objects if key.startswith("packs/"))
    store.objects[first], store.objects[second] = store.objects[second], store.objects[first]
    found = verify_points(store, keys, points)
    expected = {(key, block) for key in (first, second) for block in range(4)}
    assert expected <= named(found) <= expected | {(first, None), (second, None)}


@pytest.mark.parametrize("position", [0, 20, 100, -1])
def test_a_byte_of_a_segment(bucket: Bucket, position: int) -> None:
    bucket.flip(bucket.segments[1], position)
    found = bucket.verify()
    assert named(found) == {(bucket.segments[1], None)}
    assert found.checked_frames == WRITTEN


def test_a_segment_lost(bucket: Bucket) -> None:
    bucket.store.delete(bucket.segments[0])
    found = bucket.verify()
    assert found.damaged == [Damage(bucket.segments[0], None, "it is not in the store")]
    assert found.checked_frames == 3


# Samples


@pytest.mark.parametrize("sample", [1, 50, WRITTEN + 3, 10_000])
def test_a_sample_has_its_size(bucket: Bucket, sample: int) -> None:
    found = bucket.verify(sample=sample, seed=5)
    assert found.checked_frames == min(sample, WRITTEN + 3)
    assert found.frames == WRITTEN + 3
    assert found.damaged == []


def test_a_sample_finds_its_share(keys: PrivateKeys) -> None:
    """A tenth of all frames is damaged; 25 frames miss it all with 0.9^25 = 7 %, here 3 of 40 times."""
    bucket = Bucket(keys)
    for block, (offset, _) in bucket.frames(0).items():
        if block % 10 == 0:
            bucket.flip(bucket.packs[0], offset)
    for block, (offset, _) in bucket.frames(1).items():
        if block % 10 == 0:
            bucket.flip(bucket.packs[1], offset)
    counts = [len(bucket.verify(sample=25, seed=seed).damaged) for seed in range(40)]
    assert 1 <= counts.count(0) <= 8
    assert 60 <= sum(counts) <= 140, "25 x 40 / 10 = 100 expected"
    assert named(bucket.verify(sample=25, seed=1)) == named(bucket.verify(sample=25, seed=1))


def test_a_sample_still_asks_for_every_pack(bucket: Bucket) -> None:
    bucket.store.delete(bucket.packs[2])
    found = bucket.verify(sample=1, seed=1)
    assert named(found) == {(bucket.packs[2], None)}
    assert found.checked_frames == 1


# What is no damage


def test_a_store_that_fails_is_no_damage(bucket: Bucket) -> None:
    class Failing(MemoryStore):
        def get_range(self, key: str, start: int, length: int) -> bytes:
            if key == bucket.packs[1]:
                raise StoreUnavailable("cannot reach it")
            return super().get_range(key, start, length)

    failing = Failing()
    failing.objects = bucket.store.objects
    with pytest.raises(StoreUnavailable):
        verify_points(failing, bucket.keys, bucket.points)


def test_packs_are_listed_once_a_run(keys: PrivateKeys) -> None:
    """Packs of one disk are listed under it, once a run."""
    bucket = Bucket(keys)
    bucket.store.requests.clear()
    bucket.verify()
    assert [key for verb, key in bucket.store.requests if verb == "list"] == [
        f"packs/{DISK}/run1/",
        f"packs/{DISK}/run2/",
    ]
