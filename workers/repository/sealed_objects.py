"""Small sealed objects by their key: written once, read back, compared when they are there already."""

from __future__ import annotations

from workers.repository.envelope import open_object, seal_object
from workers.repository.errors import AlreadyWritten, RepositoryError
from workers.repository.keys import MetadataKeys
from workers.repository.limits import JSON, Limit, get_within
from workers.repository.store import ObjectExists, Store


class SealedObjects:
    """Objects of one section, within the limits of their kind. May be used from several threads."""

    def __init__(self, store: Store, keys: MetadataKeys) -> None:
        self._store = store
        self._keys = keys

    def put(self, key: str, data: bytes, limit: Limit = JSON) -> None:
        """The same again is fine.

        Raises AlreadyWritten when something else is there, DamagedObject, and RepositoryError when it is
        more than could be read back.
        """
        try:
            self._create(key, data, limit)
        except ObjectExists as error:
            if self.get(key, limit) != data:
                raise AlreadyWritten(
                    f"{key} exists already with another content; nothing was changed"
                ) from error

    def put_first(self, key: str, data: bytes, limit: Limit = JSON) -> bytes:
        """What is kept under `key` afterwards: `data`, or what was there before. Raises as `put` does."""
        try:
            self._create(key, data, limit)
        except ObjectExists:
            return self.get(key, limit)  # the first one stays, if it is one
        return data

    def get(self, key: str, limit: Limit = JSON) -> bytes:
        """Raises ObjectMissing, DamagedObject."""
        return open_object(self._keys, key, get_within(self._store, key, limit.stored), limit.sections)[0]

    def _create(self, key: str, data: bytes, limit: Limit) -> None:
        sealed = seal_object(self._keys, key, [data])
        if len(data) > limit.sections[0] or len(sealed) > limit.stored:
            raise RepositoryError(f"{key} would have {len(data)} bytes, more than are read of its kind")
        self._store.put_if_absent(key, sealed)
