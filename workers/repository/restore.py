"""Restoring a disk of a restore point into a sparse file, from the store and the private key alone."""

from __future__ import annotations

import errno
import os
import secrets
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from workers.errors import ConfigurationError
from workers.extents import BLOCK_SIZE, block_count, block_length
from workers.repository.directory_store import sync_folder
from workers.repository.errors import DamagedObject, RepositoryError
from workers.repository.keys import PrivateKeys
from workers.repository.overlay import visible, windows
from workers.repository.parallel import in_parallel
from workers.repository.point import DiskPoint, SegmentRef
from workers.repository.segment import BlockMap, read_segment
from workers.repository.spans import Span, join_frames, open_span, without_holes
from workers.repository.store import Store


class TargetExists(ConfigurationError):
    """There is something at the place where the restored disk should go."""


class RestoreFailed(RepositoryError):
    """The file could not be written; nothing is left of it."""


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

    It is written to `.<name>.<random>.partial` beside the target and gets its name at the very end, after
    every frame's tag and hash was checked and the file was flushed; so there is a whole file or none. An
    existing file is replaced only with `force`, and anything but a regular file never. `progress` gets bytes
    of the disk, `disk.virtual_size` in sum, from the calling thread.

    Memory: 8 MiB a thread (one span of frames), 11 MiB for each of the disk's layers (17 at most), and a few
    MiB more. Raises TargetExists, RestoreFailed (no space, no right), DamagedObject, StoreError.
    """
    started = time.monotonic()
    advance = progress or (lambda count: None)
    _check_target(target, force)
    stored = 0
    try:
        with _partial_file(target) as (descriptor, path):
            with closing(in_parallel(_tasks(store, keys, disk, descriptor), threads)) as results:
                for restored, fetched in results:
                    stored += fetched
                    advance(restored)
            os.ftruncate(descriptor, disk.virtual_size)
            os.fsync(descriptor)
            _give_name(path, target, force)
    except OSError as error:
        raise _failure(target, error) from error
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
        _write(descriptor, plain, block * BLOCK_SIZE)
    return _disk_bytes(span, virtual_size), span.length


def _write(descriptor: int, data: bytes, offset: int) -> None:
    written = os.pwrite(descriptor, data, offset)
    while written < len(data):  # a nearly full disk takes a part, and refuses the next one
        written += os.pwrite(descriptor, data[written:], offset + written)


def _check_target(target: Path, force: bool) -> None:
    try:
        there = target.lstat()
    except FileNotFoundError:
        return
    except OSError as error:
        raise _failure(target, error) from error
    if not force:
        raise TargetExists(f"{target} exists already; give another file, or --force to replace it")
    if not stat.S_ISREG(there.st_mode):
        raise TargetExists(f"{target} is not a regular file and is not replaced, not even with --force")


@contextmanager
def _partial_file(target: Path) -> Iterator[tuple[int, Path]]:
    """A new file beside the target, for our eyes only; gone at the end unless it was renamed."""
    path = target.parent / f".{target.name[:200]}.{secrets.token_hex(6)}.partial"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        yield descriptor, path
    finally:
        os.close(descriptor)
        with suppress(FileNotFoundError):
            path.unlink()


def _give_name(path: Path, target: Path, force: bool) -> None:
    """Renames; without `force` so that a file that came into being meanwhile is not replaced."""
    if not force:
        try:
            os.link(path, target)
        except FileExistsError as error:
            raise TargetExists(f"{target} came into being meanwhile and is not replaced") from error
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS):
                raise
            _reserve(target)  # no hard links (FAT, SMB): replace an empty file that nobody else made
            path.replace(target)
    else:
        path.replace(target)
    sync_folder(target.parent)


def _reserve(target: Path) -> None:
    try:
        os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    except FileExistsError as error:
        raise TargetExists(f"{target} came into being meanwhile and is not replaced") from error


def _failure(target: Path, error: OSError) -> RestoreFailed:
    why = (error.strerror or type(error).__name__).lower()
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return RestoreFailed(f"{target}: {why}; nothing is left of it, make room or restore elsewhere")
    return RestoreFailed(f"cannot write {target}: {why}; nothing is left of it")
