"""Supplements: other segments for a restore point's blocks; the highest number counts, alone."""

from __future__ import annotations

import json

import pytest

from tests.repository_machine import DISK, VM, Machine, MemoryStore
from workers.extents import BLOCK_SIZE, Plan
from workers.repository import (
    AlreadyWritten,
    DamagedObject,
    Point,
    PrivateKeys,
    Repository,
    list_points,
    newest_disks,
    verify_points,
)
from workers.repository.envelope import seal_object
from workers.repository.naming import supplement_key

RUN = "20261122T010000Z-night1"


@pytest.fixture
def machine(store: MemoryStore, keys: PrivateKeys) -> Machine:
    machine = Machine(store, keys, 5 * BLOCK_SIZE)
    machine.write([0, 1, 4])
    return machine


@pytest.fixture
def point(machine: Machine) -> Point:
    made = machine.point(RUN, machine.backup(RUN, Plan.full(machine.size)).segments)
    machine.repository.commit_point(made)
    return made


def plant(machine: Machine, point: Point, number: int, /, **members: object) -> str:
    """A supplement that is well sealed, with these members in place of its own."""
    key = supplement_key(point.key, number)
    disks = [{"vdi": DISK, "segments": [vars(each) for each in point.disks[0].segments]}]
    data = json.dumps({"point": point.id, "number": number, "disks": disks, **members}).encode()
    machine.store.objects[key] = seal_object(machine.keys.metadata, key, [data])
    return key


def test_whoever_reads_the_point_reads_the_newest_supplement(machine: Machine, point: Point) -> None:
    segments = point.disks[0].segments
    for number, run in ((1, "moved-1"), (2, "moved-2")):
        instead = machine.moved(segments, run)
        made = machine.repository.supplement(point, {DISK: instead})
        assert supplement_key(point.key, number) in machine.store.objects
        for segment in segments:
            del machine.store.objects[segment.key]
        segments = instead
        assert made.disks[0].segments == segments
        repository, metadata = machine.repository, machine.keys.metadata
        listed = list_points(machine.store)[VM]
        assert [each.supplement for each in listed] == [number]
        for found in (
            next(iter(repository.points())).disks[0],
            repository.find_point(point.id[:6]).disks[0],
            repository.latest_disk(VM, DISK),
            repository.disk_of_snapshot(VM, DISK, point.disks[0].snapshot),
            newest_disks(machine.store, metadata, listed, {DISK}, 1).disks[DISK],
        ):
            assert found == made.disks[0]
        assert machine.restored(made.disks[0]) == bytes(machine.content)
        assert verify_points(machine.store, machine.keys, [made], threads=1).damaged == []


def test_a_run_builds_upon_what_the_supplement_says(machine: Machine, point: Point) -> None:
    made = machine.repository.supplement(point, {DISK: machine.moved(point.disks[0].segments, "moved")})
    for segment in point.disks[0].segments:
        del machine.store.objects[segment.key]
    machine.parent = made.disks[0]
    machine.write([1])
    assert machine.restored(machine.backup("run2", machine.plan([1]))) == bytes(machine.content)


def test_a_disk_that_it_does_not_name_keeps_its_segments(machine: Machine, point: Point) -> None:
    assert machine.repository.supplement(point, {}) == point


def test_a_damaged_one_is_damage_and_a_lower_one_never_counts(machine: Machine, point: Point) -> None:
    machine.repository.supplement(point, {DISK: machine.moved(point.disks[0].segments, "moved")})
    key = plant(machine, point, 2)
    machine.store.objects[key] = machine.store.objects[key][:-1]
    with pytest.raises(DamagedObject) as caught:
        machine.repository.find_point(point.id)
    assert caught.value.object == key
    seen: list[DamagedObject] = []
    assert list(machine.repository.points(on_damage=seen.append)) == []
    assert [error.object for error in seen] == [key]


@pytest.mark.parametrize(
    ("members", "why"),
    [
        ({"point": "0123456789ab"}, "another supplement than its key says"),
        ({"number": 7}, "another supplement than its key says"),
        ({"number": 0}, "number: "),
        ({"disks": [{"vdi": "another", "segments": []}]}, "none of its restore point"),
        ({"disks": [{"vdi": DISK, "segments": []}] * 2}, "a disk comes twice"),
        ({"disks": [{"vdi": DISK}]}, "segments: "),
    ],
)
def test_one_that_makes_no_sense_is_damaged(
    machine: Machine, point: Point, members: dict[str, object], why: str
) -> None:
    key = plant(machine, point, 1, **members)
    with pytest.raises(DamagedObject, match=why) as caught:
        machine.repository.find_point(point.id)
    assert caught.value.object == key


def test_segments_of_another_disk_or_out_of_order_are_refused(machine: Machine, point: Point) -> None:
    [segment] = point.disks[0].segments
    for wrong in (
        {"key": segment.key.replace(DISK, "another")},
        {"last": 99},
        {"table_bytes": segment.size + 1},
    ):
        key = plant(machine, point, 1, disks=[{"vdi": DISK, "segments": [vars(segment) | wrong]}])
        with pytest.raises(DamagedObject) as caught:
            machine.repository.find_point(point.id)
        assert caught.value.object == key


def test_of_two_at_the_same_time_one_counts_and_the_other_is_told(
    machine: Machine, point: Point, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, theirs = (machine.moved(point.disks[0].segments, run) for run in ("moved-1", "moved-2"))
    before = dict(machine.store.objects)
    machine.repository.supplement(point, {DISK: theirs})
    after, machine.store.objects = machine.store.objects, before
    put = machine.store.put_if_absent

    def later(key: str, data: bytes) -> None:
        machine.store.objects = after
        put(key, data)

    monkeypatch.setattr(machine.store, "put_if_absent", later)
    with pytest.raises(AlreadyWritten):
        machine.repository.supplement(point, {DISK: ours})
    assert machine.repository.find_point(point.id).disks[0].segments == theirs


def test_a_forgotten_point_takes_its_supplements_along(machine: Machine, point: Point) -> None:
    machine.repository.supplement(point, {})
    machine.repository.supplement(point, {})
    other = machine.point("run9", point.disks[0].segments)
    machine.repository.commit_point(other)
    machine.repository.supplement(other, {})
    machine.repository.forget(point)
    left = [key for key in machine.store.objects if key.startswith("points/")]
    assert sorted(left) == [other.key, supplement_key(other.key, 1)]
    assert list(Repository.open(machine.store, machine.keys).points()) == [other]
