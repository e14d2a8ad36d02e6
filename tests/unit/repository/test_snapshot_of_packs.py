"""A run's record says which VDI snapshot is read; a pack that was read from another one is not its batch."""

from __future__ import annotations

import pytest

from tests.repository_machine import DISK, SNAPSHOT, Machine, MemoryStore
from workers.extents import BLOCK_SIZE, Plan
from workers.repository import DamagedObject, Pack, PrivateKeys

PLAN = Plan.full(513 * BLOCK_SIZE)
OTHER = "cccccccc-0000-0000-0000-000000000000"


@pytest.fixture
def machine(store: MemoryStore, keys: PrivateKeys) -> Machine:
    machine = Machine(store, keys, PLAN.virtual_size)
    machine.write([0, 1, 512])
    return machine


def put(machine: Machine, batch: int, snapshot: str) -> Pack:
    pack = machine.pack("run1", PLAN, batch, snapshot=snapshot)
    machine.store.put_if_absent(pack.key, pack.data)
    return pack


@pytest.mark.parametrize("is_committed", [False, True])
def test_a_pack_read_from_another_snapshot_is_refused(machine: Machine, is_committed: bool) -> None:
    packs = [put(machine, 0, OTHER), put(machine, 1, SNAPSHOT)]
    committed = b"".join(pack.hash for pack in packs) if is_committed else b""
    with pytest.raises(DamagedObject, match="it was read from another snapshot than planned") as caught:
        machine.repository.write_segments("run1", DISK, SNAPSHOT, PLAN, None, committed=committed)
    assert caught.value.object == packs[0].key


def test_beside_the_right_one_it_does_not_count_and_is_an_alarm(machine: Machine) -> None:
    wrong = put(machine, 0, OTHER)
    for batch in (0, 1):
        put(machine, batch, SNAPSHOT)
    said: list[str] = []
    segments = machine.repository.write_segments("run1", DISK, SNAPSHOT, PLAN, None, alarm=said.append)
    assert machine.restored(machine.point("run1", segments).disks[0]) == bytes(machine.content)
    assert [wrong.key in line for line in said] == [True]


def test_a_batch_of_which_one_pack_is_of_another_snapshot_is_read_again(machine: Machine) -> None:
    for batch in (0, 1):
        put(machine, batch, SNAPSHOT)
    put(machine, 1, OTHER)
    assert machine.repository.stored_batches("run1", DISK, SNAPSHOT, PLAN).batches == {0}
