"""Small sealed objects by their key: written once, read back, compared when they are there already."""

from __future__ import annotations

from workers.repository.envelope import open_object, seal_object
from workers.repository.errors import AlreadyWritten
from workers.repository.keys import MetadataKeys
from workers.repository.limits import JSON, JSON_SECTION, get_within
from workers.repository.store import ObjectExists, Store


class SealedObjects:
    """Objects of one section. May be used from several threads.

    `stored` and `plain` are how many bytes an object of this kind has at most, in the store and opened.
    """

    def __init__(self, store: Store, keys: MetadataKeys) -> None:
        self._store = store
        self._keys = keys

    def put(self, key: str, data: bytes, stored: int = JSON, plain: int = JSON_SECTION) -> None:
        """The same again is fine. Raises AlreadyWritten when something else is there, DamagedObject."""
        try:
            self._store.put_if_absent(key, seal_object(self._keys, key, [data]))
        except ObjectExists as error:
            if self.get(key, stored, plain) != data:
                raise AlreadyWritten(
                    f"{key} exists already with another content; nothing was changed"
                ) from error

    def put_first(self, key: str, data: bytes, stored: int = JSON, plain: int = JSON_SECTION) -> bytes:
        """What is kept under `key` afterwards: `data`, or what was there before. Raises DamagedObject."""
        try:
            self._store.put_if_absent(key, seal_object(self._keys, key, [data]))
        except ObjectExists:
            return self.get(key, stored, plain)  # the first one stays, if it is one
        return data

    def get(self, key: str, stored: int = JSON, plain: int = JSON_SECTION) -> bytes:
        """Raises ObjectMissing, DamagedObject."""
        return open_object(self._keys, key, get_within(self._store, key, stored), [plain])[0]
