"""Objects as files below a folder: a mounted NAS, or a bucket copied to a disk.

An object is written to a file in one hidden folder, flushed to the disk, and then linked to its own name:
`link` is the one call that both POSIX and NFS promise to fail when the name is taken. A writer that dies
leaves its file in that folder, which no listing shows and `remove_abandoned` empties (docs/adr/0081).
"""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NoReturn
from urllib.parse import unquote

from workers.repository.durable_files import make_folder, sync_folder
from workers.repository.store import (
    AccessDenied,
    BucketMissing,
    Buffer,
    ConditionalPutRefused,
    ObjectExists,
    ObjectInfo,
    ObjectMissing,
    ObjectTruncated,
    StoreError,
    StoreFull,
    StoreUnavailable,
    check_key,
    check_prefix,
    is_key_name,
)
from workers.settings import RepositorySettings

UNFINISHED = ".unfinished"
"""Below the root: what is being written. Not a name of keys, so no listing shows it."""

ABANDONED_AFTER = 6 * 3600
"""Seconds without a write after which a file's writer is taken for dead: longer than a NAS is usually away,
shorter than from one night to the next."""


class DirectoryStore:
    """A Store in a folder that exists already. Open it with `DirectoryStore.open`."""

    def __init__(self, root: Path) -> None:
        self._root = root

    @classmethod
    def open(cls, settings: RepositorySettings) -> DirectoryStore:
        """The folder of `file:///folder` (percent-decoded). Raises BucketMissing when it is not there."""
        root = Path(unquote(settings.url.removeprefix("file://")))
        if not root.is_dir():
            raise BucketMissing(f"no folder {root}; mount or create it, or correct repository.url")
        return cls(root)

    def put_if_absent(self, key: str, data: Buffer) -> None:
        """See Store. Raises ConditionalPutRefused when the file system has no hard links."""
        path = self._path(key)
        try:
            make_folder(path.parent, below=self._root)
            unfinished, descriptor = self._begin_file()
            try:
                try:
                    _write(descriptor, data)
                    os.fsync(descriptor)
                    _link(unfinished, path, descriptor)
                finally:
                    os.close(descriptor)
            finally:
                unfinished.unlink(missing_ok=True)
            sync_folder(path.parent)
        except FileExistsError as error:
            raise ObjectExists(key) from error
        except OSError as error:
            self._fail("put", key, error)

    def get(self, key: str) -> bytes:
        try:
            return self._path(key).read_bytes()
        except OSError as error:
            self._fail("get", key, error)

    def get_range(self, key: str, start: int, length: int) -> bytes:
        if start < 0 or length < 0:
            raise ValueError(f"no range: {length} bytes from {start}")
        if length == 0:
            return b""
        try:
            with self._path(key).open("rb", buffering=0) as file:
                data = os.pread(file.fileno(), length, start)
                while len(data) < length and (
                    more := os.pread(file.fileno(), length - len(data), start + len(data))
                ):
                    data += more
                size = os.fstat(file.fileno()).st_size
        except OSError as error:
            self._fail("get", key, error)
        if len(data) < length:
            raise ObjectTruncated(key, start + length, size)
        return data

    def head(self, key: str) -> ObjectInfo:
        path = self._path(key)
        try:
            if path.is_dir():
                raise ObjectMissing(key)
            return ObjectInfo(key, path.stat().st_size)
        except OSError as error:
            self._fail("head", key, error)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """See Store. Files whose names cannot be keys (temporaries, `lost+found`) are not ours: left out."""
        folder = check_prefix(prefix).rpartition("/")[0]
        try:
            yield from self._walk(
                self._root / folder if folder else self._root, f"{folder}/" if folder else "", prefix
            )
        except OSError as error:
            self._fail("list", prefix or "everything", error)

    def delete(self, key: str) -> None:
        path = self._path(key)
        try:
            path.unlink()
            sync_folder(path.parent)
        except (FileNotFoundError, NotADirectoryError):
            self._check_root()
        except OSError as error:
            self._fail("delete", key, error)

    def remove_abandoned(self) -> int:
        """Removes what dead writers have left half-written; returns how many files that were.

        A file's age is counted from its last write, by the file system's own clock, which a new file tells.
        Should that clock jump, or a writer be slower than ABANDONED_AFTER, then its put fails with
        StoreUnavailable and is tried again: nothing can get lost here.
        """
        try:
            found = sorted((self._root / UNFINISHED).iterdir())
            if not found:
                return 0
            fresh, descriptor = self._begin_file()
            now = os.fstat(descriptor).st_mtime
            os.close(descriptor)
            fresh.unlink(missing_ok=True)
            return sum(_remove_if_abandoned(path, now) for path in found)
        except FileNotFoundError:
            self._check_root()
            return 0
        except OSError as error:
            self._fail("delete", "abandoned files", error)

    def close(self) -> None:
        """Nothing is kept open."""

    def _path(self, key: str) -> Path:
        return self._root / check_key(key)

    def _begin_file(self) -> tuple[Path, int]:
        """A new file in UNFINISHED, and its descriptor for writing."""
        make_folder(self._root / UNFINISHED, below=self._root)
        path = self._root / UNFINISHED / secrets.token_hex(8)
        return path, os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)

    def _check_root(self) -> None:
        if not self._root.is_dir():
            raise StoreUnavailable(f"the folder {self._root} is gone; is it still mounted?")

    def _walk(self, folder: Path, head: str, prefix: str) -> Iterator[ObjectInfo]:
        """In the order of whole keys: a folder sorts as its name and the `/` that follows it.

        a-b/x  <  a/x     because "-" < "/", although the names alone say "a" < "a-b"
        """
        try:
            with os.scandir(folder) as entries:
                found = sorted(
                    (entry.name + "/" if entry.is_dir() else entry.name, entry)
                    for entry in entries
                    if is_key_name(entry.name)
                )
        except (FileNotFoundError, NotADirectoryError):
            self._check_root()
            return
        for name, entry in found:
            key = head + name
            if entry.is_dir():
                if key.startswith(prefix) or prefix.startswith(key):
                    yield from self._walk(folder / entry.name, key, prefix)
            elif key.startswith(prefix):
                with suppress(FileNotFoundError):  # deleted since the folder was read
                    yield ObjectInfo(key, entry.stat().st_size)

    def _fail(self, verb: str, key: str, error: OSError) -> NoReturn:
        why = (error.strerror or type(error).__name__).lower()
        if isinstance(error, FileNotFoundError | IsADirectoryError | NotADirectoryError) and verb != "put":
            self._check_root()
            raise ObjectMissing(key) from error
        if isinstance(error, FileNotFoundError):
            self._check_root()
            raise StoreUnavailable(
                f"cannot {verb} {key} in {self._root}: it was removed while it was written; try again"
            ) from error
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise StoreFull(f"cannot write {key} to {self._root}: {why}; nothing is left of it") from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise AccessDenied(f"cannot {verb} {key} in {self._root}: {why}") from error
        if error.errno in (errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EHOSTDOWN, errno.ENOTCONN):
            raise StoreUnavailable(
                f"cannot {verb} {key} in {self._root}: {why}; is it still mounted?"
            ) from error
        raise StoreError(f"cannot {verb} {key} in {self._root}: {why}") from error


def _write(descriptor: int, data: Buffer) -> None:
    rest = memoryview(data).cast("B")
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def _remove_if_abandoned(path: Path, now: float) -> bool:
    """Times in the future count too: a clock was set back, or its file server died before it set the time."""
    with suppress(FileNotFoundError):  # its writer has just ended, or another scheduler looks too
        if abs(now - path.stat().st_mtime) > ABANDONED_AFTER:
            path.unlink()
            return True
    return False


def _link(unfinished: Path, path: Path, descriptor: int) -> None:
    """Gives the file its name. Raises FileExistsError when the name is taken by another file."""
    try:
        os.link(unfinished, path)
    except FileExistsError:
        # NFS sends a request again when its answer is lost: the name may be taken by this very file.
        if not os.path.samestat(os.stat(path), os.fstat(descriptor)):
            raise
    except OSError as error:
        if error.errno in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK):
            raise ConditionalPutRefused(
                f"the file system of {path.parent} has no hard links, so nothing keeps files from being"
                " overwritten; use another file system (or NFS instead of SMB)"
            ) from error
        if error.errno == errno.EXDEV:
            raise StoreError(
                f"{path.parent} is on another file system than {unfinished.parent}, and no file can be linked"
                " from one to the other; put the whole repository on one"
            ) from error
        raise
