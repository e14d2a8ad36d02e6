"""Frames copied, sealed, into another object: where they lie, and what they were sealed as."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from blake3 import blake3

from tests.repository_machine import DISK, Machine, MemoryStore
from workers.extents import BLOCK_SIZE, Plan
from workers.repository import (
    BlockMap,
    DiskPoint,
    PackName,
    PrivateKeys,
    read_segment,
    restore_disk,
    verify_points,
)
from workers.repository.segment import SEGMENT_ENTRY, PackTable, join, seal_segment

OTHER_DISK = "dddddddd-2222-3333-4444-555555555555"
OBJECT_RUN = "compacted"


def copied(store: MemoryStore, keys: PrivateKeys) -> tuple[DiskPoint, bytes]:
    """A disk of four blocks: frames of blocks 0 and 2 of one disk, and, as block 3, block 1 of another disk;
    in a second layer that other disk's block 0.

    All lie in one object of the first disk, which is nothing but these frames back to back.
    """
    machines = [
        Machine(store, keys, 4 * BLOCK_SIZE, disk, seed) for seed, disk in enumerate((DISK, OTHER_DISK))
    ]
    wanted = ((0, 0, 0), (0, 2, 0), (1, 1, 2), (1, 0, 0))  # which disk, its block, how far it is moved
    maps = []
    for machine in machines:
        machine.write([0, 1, 2])
        [segment] = machine.backup(f"run-{machine.seed}", Plan.full(machine.size)).segments
        maps.append(read_segment(store, keys.metadata, segment, machine.size))
    joined = join(maps)
    frames, entries = b"", np.zeros(len(wanted), SEGMENT_ENTRY)
    for row, (disk, block, moved) in enumerate(wanted):
        [found] = [each for each in joined.entries if each["block"] == block and each["pack"] == disk]
        entries[row] = found
        entries[row]["block"], entries[row]["moved"] = block + moved, (-moved) % 2**64
        entries[row]["offset"] = 16 + len(frames)
        key = joined.table.name(disk).key
        frames += store.get_range(key, int(found["offset"]), int(found["length"]))
    data = bytes(16) + frames
    name = PackName(DISK, OBJECT_RUN, 5, blake3(data).digest(length=16))
    store.objects[name.key] = data
    names, rows = (*joined.table.names, OBJECT_RUN), joined.table.rows.copy()
    rows["object_disk"], rows["object_run"] = names.index(DISK), names.index(OBJECT_RUN)
    rows["object_batch"], rows["hash"], rows["size"] = 5, np.frombuffer(name.hash, np.uint8), len(data)
    table, references = PackTable(names, rows), []
    for number, layer in enumerate((entries[:3], entries[3:])):
        key = f"segments/{DISK}/{OBJECT_RUN}-{number}/00000000"
        store.objects[key], reference = seal_segment(keys.metadata, key, BlockMap(table, layer))
        references.append(reference)
    blocks = [bytes(machines[disk].content[block << 16 : block + 1 << 16]) for disk, block, _ in wanted]
    content = blocks[3] + bytes(BLOCK_SIZE) + blocks[1] + blocks[2]
    return machines[0].point("run-9", tuple(references)).disks[0], content


def test_they_are_restored_as_what_they_were_sealed_as(
    store: MemoryStore, keys: PrivateKeys, tmp_path: Path
) -> None:
    disk, content = copied(store, keys)
    restore_disk(store, keys, disk, tmp_path / "disk", threads=1)
    assert (tmp_path / "disk").read_bytes() == content


def test_verify_takes_an_object_of_two_rows_for_one(store: MemoryStore, keys: PrivateKeys) -> None:
    disk, _ = copied(store, keys)
    point = Machine(store, keys, disk.virtual_size).point("run-9", disk.segments)
    verified = verify_points(store, keys, [point], sample=100, threads=1)
    assert (verified.damaged, verified.checked_frames) == ([], 4)
    [key] = [key for key in store.objects if OBJECT_RUN in key and key.startswith("packs/")]
    store.objects[key] = store.objects[key][:-1]
    verified = verify_points(store, keys, [point], sample=100, threads=1)
    assert [(damage.object, damage.why.split(",")[0][:6]) for damage in verified.damaged] == [(key, "it has")]
