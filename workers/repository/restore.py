"""Restoring a disk of a restore point into a sparse file, from the store and the private key alone."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from workers.extents import BLOCK_SIZE, block_count, block_length
from workers.repository.durable_files import whole_file, write_all
from workers.repository.errors import DamagedObject
from workers.repository.keys import PrivateKeys
from workers.repository.overlay import visible, windows
from workers.repository.parallel import in_parallel
from workers.repository.point import DiskPoint, SegmentRef
from workers.repository.segment import BlockMap, read_segment
from workers.repository.spans import Span, join_frames, open_span, without_holes
from workers.repository.store import Store


@dataclass(frozen=True)
class Restored:
    """`bytes` is the size of the disk, `stored_bytes` what was fetched and checked of it."""

    bytes: int
    stored_bytes: int
    seconds: float


def restore_disk(
    store: Store,
    keys: PrivateKeys,
    disk: DiskPoint,
    target: Path,
    *,
    force: bool = False,
    threads: int = 8,
    progress: Callable[[int], None] | None = None,
) -> Restored:
    """Writes the disk as it was to `target`, sparse: holes and blocks never written take no space.

    The file gets its name at the very end, after every frame's tag and hash was checked; so there is a whole
    file or none (`durable_files.py`). `progress` gets bytes of the disk, `disk.virtual_size` in sum, from the
    calling thread.

    Memory: 8 MiB a thread (one span of frames), 13 MiB for each of the disk's layers (17 at most), and a few
    MiB more. Raises TargetExists, FileNotWritten (no space, no right), DamagedObject, StoreError.
    """
    started = time.monotonic()
    advance = progress or (lambda count: None)
    stored = 0
    with whole_file(target, force=force) as descriptor:
        with closing(in_parallel(_tasks(store, keys, disk, descriptor), threads)) as results:
            for restored, fetched in results:
                stored += fetched
                advance(restored)
        os.ftruncate(descriptor, disk.virtual_size)
    return Restored(disk.virtual_size, stored, time.monotonic() - started)


def _tasks(
    store: Store, keys: PrivateKeys, disk: DiskPoint, descriptor: int
) -> Iterator[Callable[[], tuple[int, int]]]:
    """Each task restores some blocks and returns their bytes, and the bytes fetched for them."""

    def read(segment: SegmentRef) -> BlockMap:
        return read_segment(store, keys.metadata, segment, disk.virtual_size)

    for window in windows(disk.layers(), block_count(disk.virtual_size), read):
        end = min(window.end * BLOCK_SIZE, disk.virtual_size)
        zeros = end - window.start * BLOCK_SIZE
        for part in visible(window):
            for span in join_frames(part.table, without_holes(part.entries)):
                zeros -= _disk_bytes(span, disk.virtual_size)
                yield partial(_restore_span, store, keys, span, descriptor, disk.virtual_size)
        yield partial(_nothing_to_do, zeros)


def _disk_bytes(span: Span, virtual_size: int) -> int:
    short = block_count(virtual_size) * BLOCK_SIZE - virtual_size
    has_last = int(span.entries["block"].max()) == block_count(virtual_size) - 1
    return len(span.entries) * BLOCK_SIZE - (short if has_last else 0)


def _nothing_to_do(restored: int) -> tuple[int, int]:
    """Holes are not written: the file is sparse, and new."""
    return restored, 0


def _restore_span(
    store: Store, keys: PrivateKeys, span: Span, descriptor: int, virtual_size: int
) -> tuple[int, int]:
    """A frame of a formerly last block may be shorter than the block is now; what follows it stays zeros."""
    for block, plain in open_span(store, keys, span):
        if isinstance(plain, DamagedObject):
            raise plain
        if len(plain) > block_length(block, virtual_size):
            raise DamagedObject(span.table.name(span.pack).key, "the block is longer than its disk", block)
        write_all(descriptor, plain, block * BLOCK_SIZE)
    return _disk_bytes(span, virtual_size), span.length
