"""Which of several packs of a batch counts: the committed one, or one that all others agree with."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.repository_machine import DISK, ENCRYPTED, SNAPSHOT, Machine, MemoryStore
from workers.extents import BLOCK_SIZE, Plan
from workers.repository import DamagedObject, DisagreeingPacks, MissingBatches, Pack, StoredBatches

SIZE = 600 * BLOCK_SIZE
PLAN = Plan.full(SIZE)
"""Two batches."""


@pytest.fixture
def machine(store: MemoryStore) -> Machine:
    machine = Machine(store, ENCRYPTED, SIZE)
    machine.write([5, 599])
    return machine


def put(machine: Machine, batch: int) -> Pack:
    pack = machine.pack("run1", PLAN, batch)
    machine.store.put_if_absent(pack.key, pack.data)
    return pack


def put_another(machine: Machine, batch: int) -> Pack:
    """Of other content, as somebody makes it who has the public key."""
    content = bytes(machine.content)
    machine.write([5, 598])
    pack = put(machine, batch)
    machine.content[:] = content
    return pack


@pytest.mark.parametrize("order", [0, 1])
def test_the_committed_pack_counts_and_the_other_is_an_alarm(machine: Machine, order: int) -> None:
    makers: list[Callable[[Machine, int], Pack]] = [put, put_another]
    packs = [make(machine, 0) for make in (makers if order else makers[::-1])]
    ours, another = packs if order else packs[::-1]
    committed = ours.hash + put(machine, 1).hash
    said: list[str] = []
    segments = machine.repository.write_segments(
        "run1", DISK, SNAPSHOT, PLAN, None, committed=committed, alarm=said.append
    )
    assert machine.restored(machine.point("run1", segments).disks[0]) == bytes(machine.content)
    assert [another.key in line for line in said] == [True]


def test_a_pack_of_the_same_content_is_no_alarm(machine: Machine) -> None:
    """A worker was taken for dead and was not."""
    ours, same = put(machine, 0), put(machine, 0)
    assert ours.key != same.key
    said: list[str] = []
    machine.repository.write_segments(
        "run1", DISK, SNAPSHOT, PLAN, None, committed=ours.hash + put(machine, 1).hash, alarm=said.append
    )
    assert said == []


def test_a_damaged_pack_is_an_alarm_beside_the_committed_one_and_a_failure_as_that(
    machine: Machine, damage: Callable[[str, int], None]
) -> None:
    ours, other = put(machine, 0), put(machine, 0)
    damage(other.key, -1)
    committed = ours.hash + put(machine, 1).hash
    said: list[str] = []
    machine.repository.write_segments(
        "run1", DISK, SNAPSHOT, PLAN, None, committed=committed, alarm=said.append
    )
    assert [other.key in line for line in said] == [True]
    damage(ours.key, -1)
    with pytest.raises(DamagedObject, match=ours.key):
        machine.repository.write_segments("run1", DISK, SNAPSHOT, PLAN, None, committed=committed)


def test_a_committed_pack_that_is_gone_is_not_replaced_by_another(machine: Machine) -> None:
    ours = put(machine, 0)
    put_another(machine, 0)
    committed = ours.hash + put(machine, 1).hash
    machine.store.delete(ours.key)
    with pytest.raises(MissingBatches) as caught:
        machine.repository.write_segments("run1", DISK, SNAPSHOT, PLAN, None, committed=committed)
    assert caught.value.numbers == (0,)


@pytest.mark.parametrize("known", [b"", bytes(32)])
def test_packs_that_differ_are_never_chosen_by_name(machine: Machine, known: bytes) -> None:
    """Redis forgot which one was committed."""
    put(machine, 0), put_another(machine, 0)
    put(machine, 1), put(machine, 1)
    with pytest.raises(DisagreeingPacks) as caught:
        machine.repository.write_segments("run1", DISK, SNAPSHOT, PLAN, None, committed=known)
    assert caught.value.batch == 0


def test_a_batch_whose_packs_differ_or_are_damaged_is_read_again(
    machine: Machine, damage: Callable[[str, int], None]
) -> None:
    last = put(machine, 1)
    short = PLAN.changed_bytes - 512 * BLOCK_SIZE
    put(machine, 0), put_another(machine, 0)
    found = machine.repository.stored_batches("run1", DISK, SNAPSHOT, PLAN)
    assert found == StoredBatches(frozenset({1}), short, len(last.data))
    again = put(machine, 1)
    assert machine.repository.stored_batches("run1", DISK, SNAPSHOT, PLAN).batches == {1}
    damage(again.key, -1)
    assert machine.repository.stored_batches("run1", DISK, SNAPSHOT, PLAN).batches == set()
