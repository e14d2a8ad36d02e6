"""Files that are whole or not there, also after a power cut: every file for a person is written with this.

A file is written to `.<name>.<random>.partial` beside its target, flushed, given its name, and then the
folder is flushed, which holds the name. It is its owner's alone (0600) from the first moment.
"""

from __future__ import annotations

import errno
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from workers.errors import ConfigurationError
from workers.repository.errors import RepositoryError


class TargetExists(ConfigurationError):
    """There is something at the place where the file should go."""


class FileNotWritten(RepositoryError):
    """The file could not be written; nothing is left of it."""


@contextmanager
def whole_file(target: Path, *, force: bool = False) -> Iterator[int]:
    """A descriptor to write to; the file gets its name when the block has ended without an error.

    An existing file is replaced only with `force`, and anything but a regular file never. Raises
    TargetExists; FileNotWritten (no space, no right) for every OSError, also one of the block.
    """
    _check_target(target, force)
    try:
        with _partial_file(target) as (descriptor, path):
            yield descriptor
            os.fsync(descriptor)
            _give_name(path, target, force)
    except OSError as error:
        raise _failure(target, error) from error


def write_file(target: Path, data: bytes, *, force: bool = False) -> None:
    """All of `data`, or nothing. Raises as `whole_file` does."""
    with whole_file(target, force=force) as descriptor:
        write_all(descriptor, data, 0)


def write_all(descriptor: int, data: bytes, offset: int) -> None:
    """At that offset; by any number of threads."""
    written = os.pwrite(descriptor, data, offset)
    while written < len(data):  # a nearly full disk takes a part, and refuses the next one
        written += os.pwrite(descriptor, data[written:], offset + written)


def make_folder(folder: Path, *, below: Path | None = None, mode: int = 0o777) -> None:
    """Makes a folder and those above it, each one durable; `below` itself is never made. Raises OSError."""
    if folder == below or folder.is_dir():
        return
    make_folder(folder.parent, below=below, mode=mode)
    with suppress(FileExistsError):
        folder.mkdir(mode)
    sync_folder(folder.parent)


def sync_folder(folder: Path) -> None:
    """Makes the names in a folder durable, where that exists: some network file systems cannot flush one."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
            raise
    finally:
        os.close(descriptor)


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
    """A new file beside the target; gone at the end unless it was renamed."""
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


def _failure(target: Path, error: OSError) -> FileNotWritten:
    why = (error.strerror or type(error).__name__).lower()
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return FileNotWritten(f"{target}: {why}; nothing is left of it, make room or write it elsewhere")
    return FileNotWritten(f"cannot write {target}: {why}; nothing is left of it")
