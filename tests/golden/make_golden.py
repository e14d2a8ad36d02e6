"""Makes the golden repositories: small ones that every later version must still read.

Run once for a version of the format and never again: `python -m tests.golden.make_golden tests/golden/v1`.
The disks' content is seeded; keys, salts and encapsulated keys are random, so no two results are alike.

Each repository (one encrypted, one not) has one VM with two disks and five points:
    full          two batches, holes, raw and compressed frames, a short last block
    incremental   blocks rewritten, one zeroed
    growth        the disk is longer; its formerly last, short block is not rewritten
    unchanged     no pack, no segment of its own
    merged        the layers merged into one
The second disk is all zeros. The first point has two supplements, of which the second one counts.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

import numpy as np

from scheduler.policies.requests import RunRequest
from scheduler.runs.values import OpenRun, ResultRow, RunResult
from workers.extents import BLOCK_SIZE, Plan, block_count
from workers.repository import (
    DiskPoint,
    PackWriter,
    Point,
    Repository,
    SegmentRef,
    Store,
    WorkerKeys,
    create_repository,
    load_private_keys,
    open_store,
    point_id,
    read_segment,
    write_segments,
)
from workers.repository.naming import segment_key
from workers.repository.segment import seal_segment
from workers.settings import RepositorySettings

PASSPHRASE = "golden, and no secret"
VM = "0c1d7b52-5c0a-4f0e-9a53-1f6c2f3b7a10"
DISKS = ("7e0b8a64-2d43-4c55-8f0a-6b1f0f2f9d01", "c2a9be17-64d1-4a0f-bb0d-0d8c4a9e5f02")
SIZES = (700 * BLOCK_SIZE - 1234, 16 * BLOCK_SIZE)

Steps = list[tuple[str, int, dict[int, str]]]
STEPS: Steps = [
    ("full", SIZES[0], {0: "text", 1: "random", 2: "text", 511: "text", 512: "text", 699: "text"}),
    ("incremental", SIZES[0], {1: "text", 2: "zero", 600: "text"}),
    ("growth", 710 * BLOCK_SIZE + 4321, {0: "text", 705: "text", 710: "text"}),
    ("unchanged", 710 * BLOCK_SIZE + 4321, {}),
    ("merged", 710 * BLOCK_SIZE + 4321, {3: "random", 511: "zero"}),
]


def content_of(kind: str, length: int, random: np.random.Generator) -> bytes:
    if kind == "zero":
        return bytes(length)
    if kind == "random":
        return random.bytes(length)
    return (f"{random.integers(10**9)} the quick brown fox\n".encode() * 5000)[:length]


def back_up(
    store: Store, worker: WorkerKeys, repository: Repository, run: str, disk: str, snapshot: str,
    content: bytearray, plan: Plan, parent: DiskPoint | None,
) -> tuple[SegmentRef, ...]:  # fmt: skip
    repository.keep_plan(run, disk, plan)
    for batch in plan.batch_numbers():
        place = {"disk": disk, "run": run, "snapshot": snapshot}
        writer = PackWriter(worker, **place, batch=batch, virtual_size=len(content))
        blocks = plan.batch(batch)
        plain = b"".join(content[b * BLOCK_SIZE : (b + 1) * BLOCK_SIZE] for b in blocks.tolist())
        writer.add(blocks, memoryview(plain))
        pack = writer.finish()
        store.put_if_absent(pack.key, pack.data)
    return repository.write_segments(run, disk, snapshot, plan, parent)


def plan_of(blocks: dict[int, str], size: int) -> Plan:
    bits = np.zeros(block_count(size), np.uint8)
    bits[list(blocks)] = 1
    return Plan.from_bitmap(np.packbits(bits).tobytes(), size)


def row_of(disk: DiskPoint, point: str) -> ResultRow:
    return ResultRow(
        "golden", VM, disk.vdi, disk.name, disk.mode, disk.reason, disk.changed_bytes, point=point
    )


def fill(store: Store, settings: RepositorySettings) -> list[dict[str, object]]:
    keys = load_private_keys(store, settings, lambda: PASSPHRASE)
    repository = Repository.open(store, keys)
    random = np.random.default_rng(20261122)
    contents = [bytearray(size) for size in SIZES]
    parents: list[DiskPoint | None] = [None, None]
    expected: list[dict[str, object]] = []
    for hour, (name, size, changed) in enumerate(STEPS):
        run = f"20261122T{hour:02d}0000Z-{name}"
        time = f"2026-11-22T{hour:02d}:00:00Z"
        repository.open_run(run, OpenRun(RunRequest("lab", ("golden",)), time, {VM: "golden"}).write())
        contents[0] += bytes(size - len(contents[0]))
        for block, kind in changed.items():
            length = min(BLOCK_SIZE, size - block * BLOCK_SIZE)
            contents[0][block * BLOCK_SIZE : block * BLOCK_SIZE + length] = content_of(kind, length, random)
        disks: list[DiskPoint] = []
        write_segments.MAX_LAYERS = 2 if name == "merged" else 16
        for disk, content, parent, blocks in zip(DISKS, contents, parents, (changed, {}), strict=True):
            plan = Plan.full(len(content)) if parent is None else plan_of(blocks, len(content))
            snapshot = f"snapshot-{name}"
            place = (run, disk, snapshot)
            segments = back_up(store, keys.metadata.worker, repository, *place, content, plan, parent)
            mode = "full" if parent is None else "incremental"
            facts = (disk, "disk", "0", len(content), snapshot, "sr", mode, name, plan.changed_bytes, 0, 0)
            disks.append(DiskPoint(*facts, segments=segments))  # type: ignore[arg-type]
            expected.append(
                {
                    "point": point_id(run, VM),
                    "vdi": disk,
                    "virtual_size": len(content),
                    "layers": len(disks[-1].layers()),
                    "sha256": hashlib.sha256(content).hexdigest(),
                }
            )
        parents = list(disks)
        previous = repository.newest_run(VM)
        point = Point(point_id(run, VM), "golden", VM, time, run, "lab", tuple(disks), previous=previous)
        repository.commit_point(point)
        rows = tuple(row_of(disk, point_id(run, VM)) for disk in disks)
        result = RunResult(run, "succeeded", None, "lab", None, started=time, ended=time, disks=rows)
        repository.close_run(run, result.write())
    return expected


def supplement(store: Store, settings: RepositorySettings) -> None:
    """The first point's block map, under other names; the objects of the first supplement are gone."""
    keys = load_private_keys(store, settings, lambda: PASSPHRASE)
    repository = Repository.open(store, keys)
    for hour in (5, 6):
        point = next(iter(repository.points()))
        disk = point.disks[0]
        made = []
        for number, segment in enumerate(disk.segments):
            piece = read_segment(store, keys.metadata, segment, disk.virtual_size)
            key = segment_key(disk.vdi, f"20261122T{hour:02d}0000Z-moved", number)
            data, reference = seal_segment(keys.metadata, key, piece)
            store.put_if_absent(key, data)
            made.append(reference)
        repository.supplement(point, {disk.vdi: tuple(made)})
        for segment in disk.segments if hour == 6 else ():
            store.delete(segment.key)


def main(folder: Path) -> None:
    facts: dict[str, object] = {"passphrase": PASSPHRASE}
    for kind in ("encrypted", "unencrypted"):
        (folder / kind).mkdir(parents=True)
        files = {
            f"{key}_key_file": folder / "keys" / f"{key}.json" for key in ("public", "metadata", "private")
        }
        settings = RepositorySettings.model_validate(
            {"url": f"file://{(folder / kind).absolute()}"} | (files if kind == "encrypted" else {})
        )
        store = open_store(settings)
        created = create_repository(store, settings, encrypted=kind == "encrypted", passphrase=PASSPHRASE)
        facts[kind] = {"recovery_key": created.recovery_key, "disks": fill(store, settings)}
        supplement(store, settings)
        store.close()
    (folder / "expected.json").write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
