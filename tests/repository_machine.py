"""A store in memory, keys, and a small machine that makes backups: what the repository's tests share."""

from __future__ import annotations

import contextlib
import hashlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from workers.extents import BLOCK_SIZE, Plan, block_count
from workers.repository import (
    DiskPoint,
    FrameReader,
    Kind,
    Pack,
    PackWriter,
    Point,
    PrivateKeys,
    Repository,
    SegmentRef,
    point_id,
)
from workers.repository.naming import segment_key
from workers.repository.overlay import visible, windows
from workers.repository.segment import read_segment, seal_segment
from workers.repository.store import (
    Buffer,
    ObjectExists,
    ObjectInfo,
    ObjectMissing,
    ObjectTooLarge,
    ObjectTruncated,
)

REPOSITORY_ID = "6a1f3c0e-7f52-4d11-9d3c-0f8a5b2c7e41"
DISK = "11111111-2222-3333-4444-555555555555"
VM = "99999999-8888-7777-6666-555555555555"
SNAPSHOT = "aaaaaaaa-0000-0000-0000-000000000000"


class MemoryStore:
    """A store that keeps its objects in a dict, counts requests, and lets a test damage what it holds."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.requests: list[tuple[str, str]] = []
        self._lock = threading.Lock()

    def put_if_absent(self, key: str, data: Buffer) -> None:
        with self._lock:
            self.requests.append(("put", key))
            if key in self.objects:
                raise ObjectExists(key)
            self.objects[key] = bytes(data)

    def get(self, key: str, limit: int) -> bytes:
        data = self._get(key)
        if len(data) > limit:
            raise ObjectTooLarge(key, len(data), limit)
        return data

    def _get(self, key: str) -> bytes:
        self.requests.append(("get", key))
        if key not in self.objects:
            raise ObjectMissing(key)
        return self.objects[key]

    def get_range(self, key: str, start: int, length: int) -> bytes:
        data = self._get(key)
        if len(data) < start + length:
            raise ObjectTruncated(key, start + length, len(data))
        return data[start : start + length]

    def head(self, key: str) -> ObjectInfo:
        self.requests.append(("head", key))
        if key not in self.objects:
            raise ObjectMissing(key)
        return ObjectInfo(key, len(self.objects[key]))

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        self.requests.append(("list", prefix))
        return iter([ObjectInfo(k, len(v)) for k, v in sorted(self.objects.items()) if k.startswith(prefix)])

    def delete(self, key: str) -> None:
        self.objects.pop(key, None)

    def close(self) -> None:
        pass


def secret(name: str) -> bytes:
    """32 bytes that are the same in every run of the tests."""
    return hashlib.sha256(name.encode()).digest()


ENCRYPTED = PrivateKeys.from_masters(REPOSITORY_ID, [secret("master")])
PLAIN = PrivateKeys.plain(REPOSITORY_ID, secret("hash key"))


@dataclass
class Machine:
    """One disk that is written to and backed up; `content` is what it holds now."""

    store: MemoryStore
    keys: PrivateKeys
    size: int
    disk: str = DISK
    seed: int = 7
    parent: DiskPoint | None = None

    def __post_init__(self) -> None:
        self.random = np.random.default_rng(self.seed)
        self.content = bytearray(self.size)
        self.repository = Repository.open(self.store, self.keys)

    def write(self, blocks: list[int], *, zeros: bool = False) -> None:
        for block in blocks:
            end = min((block + 1) * BLOCK_SIZE, self.size)
            length = end - block * BLOCK_SIZE
            noise = bytes(length) if zeros else self.random.bytes(length // 2) + bytes(length - length // 2)
            self.content[block * BLOCK_SIZE : end] = noise

    def grow(self, size: int) -> None:
        self.content += bytes(size - self.size)
        self.size = size

    def plan(self, blocks: list[int]) -> Plan:
        bits = np.zeros(block_count(self.size), np.uint8)
        bits[blocks] = 1
        return Plan.from_bitmap(np.packbits(bits).tobytes(), self.size)

    def pack(self, run: str, plan: Plan, batch: int, **options: Any) -> Pack:
        writer = PackWriter(
            self.keys.metadata.worker,
            disk=self.disk,
            run=run,
            batch=batch,
            virtual_size=self.size,
            **{"snapshot": SNAPSHOT, **options},
        )
        blocks = plan.batch(batch)
        plain = b"".join(bytes(self.content[b * BLOCK_SIZE : (b + 1) * BLOCK_SIZE]) for b in blocks.tolist())
        writer.add(blocks, memoryview(plain))
        return writer.finish()

    def put_packs(self, run: str, plan: Plan) -> None:
        for batch in plan.batch_numbers():
            pack = self.pack(run, plan, batch)
            with contextlib.suppress(ObjectExists):  # unencrypted, the same blocks make the same pack
                self.store.put_if_absent(pack.key, pack.data)

    def backup(self, run: str, plan: Plan) -> DiskPoint:
        self.put_packs(run, plan)
        segments = self.repository.write_segments(run, self.disk, SNAPSHOT, plan, self.parent)
        self.parent = self.point(run, segments).disks[0]
        return self.parent

    def point(self, run: str, segments: tuple[object, ...]) -> Point:
        disk = DiskPoint(
            vdi=self.disk,
            name="root",
            userdevice="0",
            virtual_size=self.size,
            snapshot=SNAPSHOT,
            sr="bbbbbbbb-0000-0000-0000-000000000000",
            mode="full" if self.parent is None else "incremental",
            reason="test",
            changed_bytes=1,
            read_bytes=2,
            stored_bytes=3,
            segments=segments,  # type: ignore[arg-type]
        )
        minute = int("".join(filter(str.isdigit, run[-4:])) or 0)
        time = f"2026-11-22T{minute // 60:02d}:{minute % 60:02d}:00Z"
        return Point(point_id(run, VM), "web", VM, time, run, "lab", (disk,))

    def moved(self, segments: tuple[SegmentRef, ...], run: str) -> tuple[SegmentRef, ...]:
        """The same block map under other names, as one layer."""
        made = []
        for number, segment in enumerate(segments):
            piece = read_segment(self.store, self.keys.metadata, segment, self.size)
            key = segment_key(self.disk, run, number)
            self.store.objects[key], reference = seal_segment(self.keys.metadata, key, piece)
            made.append(reference)
        return tuple(made)

    def restored(self, disk: DiskPoint) -> bytes:
        """The disk, read back block by block in the plainest way."""
        output = bytearray(disk.virtual_size)
        keys = self.keys.metadata
        for window in windows(
            disk.layers(),
            block_count(disk.virtual_size),
            lambda segment: read_segment(self.store, keys, segment, disk.virtual_size),
        ):
            for part in visible(window):
                for entry in part.entries:
                    if entry["flags"] == Kind.HOLE:
                        continue
                    row, block = int(entry["pack"]), int(entry["block"])
                    name = part.table.name(row)
                    frame = self.store.get_range(name.key, int(entry["offset"]), int(entry["length"]))
                    reader = FrameReader(self.keys, name.key, part.table.origin(row))
                    plain = reader.open(block, int(entry["flags"]), entry["hash"].tobytes(), frame)
                    output[block * BLOCK_SIZE : block * BLOCK_SIZE + len(plain)] = plain
        return bytes(output)
