"""The narrow interface to a place that keeps objects, and the errors it may raise.

A store knows nothing of packs, points or keys of encryption: it keeps immutable bytes under names. Every
object is created once and never overwritten (`put_if_absent` is the only way to write), so a reader never
sees two versions of one key, and no cache of an object can be stale.

A key is a path of plain names, for example `packs/<disk>/<run>/00000007-1f2e3d4c`; see `check_key`.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from workers.errors import CbtfleetError

Buffer = bytes | bytearray | memoryview
"""What can be stored. A memoryview must be contiguous, of single bytes."""

_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*")
_PREFIX = re.compile(r"(?:[A-Za-z0-9_-][A-Za-z0-9._-]*/)*(?:[A-Za-z0-9_-][A-Za-z0-9._-]*)?")

MAX_KEY_LENGTH = 512
"""S3 allows 1,024 bytes and file systems 255 a name; ours are far shorter, a prefix of the user's may add."""


@dataclass(frozen=True)
class ObjectInfo:
    """One object of a listing: its key and its size in bytes."""

    key: str
    size: int


class Store(Protocol):
    """What the repository asks of a place that keeps objects.

    All methods may be called from several threads at once. A store must be opened in the process that uses
    it: its connections do not survive a fork. Every method may raise StoreError and its subclasses besides
    those named.
    """

    def put_if_absent(self, key: str, data: Buffer) -> None:
        """Creates the object durably and whole, or not at all. Raises ObjectExists when the key is taken.

        Not raised when it was this very call that wrote the object and only the answer was lost.
        """

    def get(self, key: str, limit: int) -> bytes:
        """The whole object, of `limit` bytes at most: its size is looked at before any of it is read.

        Raises ObjectMissing, ObjectTooLarge.
        """

    def get_range(self, key: str, start: int, length: int) -> bytes:
        """Exactly `length` bytes from byte `start`; nothing is asked of the store when `length` is 0.

        Raises ObjectMissing, or ObjectTruncated when the object ends before that.
        """

    def head(self, key: str) -> ObjectInfo:
        """The object's size. Raises ObjectMissing."""

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """Every object whose key starts with `prefix` (plain text, not only whole folders), ascending by key.

        Complete, or raises: a caller may delete by what a listing lacks, but only after its end was reached.
        """

    def delete(self, key: str) -> None:
        """Removes the object; deleting what is not there is fine."""

    def close(self) -> None:
        """Gives the connections back. The store must not be used afterwards."""


class StoreError(CbtfleetError):
    """The object store did not do what was asked of it."""


class ObjectExists(StoreError):
    """The key is taken, and objects are never overwritten."""

    def __init__(self, key: str) -> None:
        super().__init__(f"object {key} exists already and is never overwritten")
        self.key = key


class ObjectMissing(StoreError):
    """There is no object of this key."""

    def __init__(self, key: str) -> None:
        super().__init__(f"object {key} is not in the store")
        self.key = key


class ObjectTruncated(StoreError):
    """The object is shorter than what was asked of it."""

    def __init__(self, key: str, wanted_end: int, size: int | None = None) -> None:
        has = "fewer" if size is None else str(size)
        super().__init__(
            f"object {key} is truncated: it should have at least {wanted_end} bytes, it has {has}"
        )
        self.key = key


class ObjectTooLarge(StoreError):
    """The object has more bytes than any of its kind; none of them was read."""

    def __init__(self, key: str, size: int, limit: int) -> None:
        super().__init__(f"object {key} has {size} bytes, {limit} at most make sense; it was not read")
        self.key = key
        self.size = size
        self.limit = limit


class StoreUnavailable(StoreError):
    """The store cannot be reached, or kept failing; trying again later may help."""


class BucketMissing(StoreError):
    """The bucket or folder itself does not exist; never created here: an unmounted NAS looks the same."""


class AccessDenied(StoreError):
    """The store knows us and refuses, or does not know us at all."""


class ClockWrong(StoreError):
    """The store says that this machine's clock is wrong: other machines may be served."""


class CredentialsMissing(StoreError):
    """No credentials were found where the AWS chain looks for them."""


class StoreFull(StoreError):
    """No space or quota left."""


class ConditionalPutRefused(StoreError):
    """The store answers a conditional PUT with an error: nothing would prevent overwriting."""


def check_key(key: str) -> str:
    """`key` itself. Raises ValueError when it is not a path of plain names.

    A name has ASCII letters, digits, `_`, `-` and (not first) `.`: so `..`, absolute paths, empty names and
    the hidden names of temporary files can never be keys.
    """
    if len(key) > MAX_KEY_LENGTH or not all(_NAME.fullmatch(name) for name in key.split("/")):
        raise ValueError(f"not an object key: {key!r}")
    return key


def check_prefix(prefix: str) -> str:
    """`prefix` itself, the beginning of some key or empty. Raises ValueError."""
    if len(prefix) > MAX_KEY_LENGTH or not _PREFIX.fullmatch(prefix):
        raise ValueError(f"not the beginning of an object key: {prefix!r}")
    return prefix


def is_key_name(name: str) -> bool:
    """Whether `name` could be one part of a key; files of other names in a folder are not ours."""
    return _NAME.fullmatch(name) is not None


def honours_put_if_absent(store: Store) -> bool:
    """Whether the store refuses to overwrite, found out by trying; nothing is left behind.

    Some stores answer 200 to a PUT with `If-None-Match: *` and overwrite. Raises ConditionalPutRefused when
    the store does not accept such a PUT at all.
    """
    key = f"probe-{secrets.token_hex(16)}"
    store.put_if_absent(key, b"first")
    try:
        store.put_if_absent(key, b"second")
        return False
    except ObjectExists:
        return store.get(key, limit=16) == b"first"
    finally:
        store.delete(key)
