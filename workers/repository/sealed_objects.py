"""Small sealed objects by their key: written once, read back, compared when they are there already."""

from __future__ import annotations

import json
from typing import Any

from workers.repository.envelope import open_object, seal_object
from workers.repository.errors import AlreadyWritten, DamagedObject
from workers.repository.keys import MetadataKeys
from workers.repository.store import ObjectExists, Store

MAX_JSON = 64 << 20


class SealedObjects:
    """Objects of one section. May be used from several threads."""

    def __init__(self, store: Store, keys: MetadataKeys) -> None:
        self._store = store
        self._keys = keys

    def put(self, key: str, data: bytes, limit: int) -> None:
        """The same again is fine. Raises AlreadyWritten when something else is there, DamagedObject."""
        try:
            self._store.put_if_absent(key, seal_object(self._keys, key, [data]))
        except ObjectExists as error:
            if self.get(key, limit) != data:
                raise AlreadyWritten(
                    f"{key} exists already with another content; nothing was changed"
                ) from error

    def put_first(self, key: str, facts: dict[str, Any]) -> dict[str, Any]:
        """What is kept under `key` afterwards: `facts`, or what was there before. Raises DamagedObject."""
        data = json.dumps(facts, sort_keys=True, ensure_ascii=False).encode()
        try:
            self._store.put_if_absent(key, seal_object(self._keys, key, [data]))
        except ObjectExists:
            return self.get_json(key)  # the first one stays, if it is one
        return facts

    def get(self, key: str, limit: int) -> bytes:
        """At most `limit` bytes. Raises ObjectMissing, DamagedObject."""
        return open_object(self._keys, key, self._store.get(key), [limit])[0]

    def get_json(self, key: str) -> dict[str, Any]:
        """Raises ObjectMissing, DamagedObject."""
        try:
            facts = json.loads(self.get(key, MAX_JSON))
        except ValueError as error:
            raise DamagedObject(key, "it is not JSON") from error
        if not isinstance(facts, dict):
            raise DamagedObject(key, "it is not a JSON object")
        return facts
