"""The pool's records: created, changed and deleted under one lock, with a journal for event.from."""

from __future__ import annotations

import copy
import random
import threading
import uuid
from dataclasses import dataclass
from typing import Any

from infra.simulator.failures import Failure
from infra.simulator.schema import BACK_REFERENCES, FIELDS

Record = dict[str, Any]


@dataclass(frozen=True)
class Change:
    number: int
    cls: str
    operation: str
    """add, mod or del."""
    ref: str


class Database:
    """Records by class and reference. Hold `lock` around every use; `changed` is notified at every change."""

    def __init__(self, seed: int) -> None:
        self.lock = threading.RLock()
        self.changed = threading.Condition(self.lock)
        self.journal: list[Change] = []
        self._random = random.Random(seed)
        self._tables: dict[str, dict[str, Record]] = {cls: {} for cls in FIELDS}

    def new_uuid(self) -> str:
        return str(uuid.UUID(int=self._random.getrandbits(128), version=4))

    def create(self, cls: str, /, **values: Any) -> str:
        """A new object with the class's defaults and these values; returns its reference."""
        ref = f"OpaqueRef:{self.new_uuid()}"
        return self.insert(cls, ref, {"uuid": self.new_uuid(), **values})

    def insert(self, cls: str, ref: str, values: Record) -> str:
        unknown = values.keys() - FIELDS[cls].keys()
        if unknown:
            raise KeyError(f"{cls} has no field {unknown}")
        self._tables[cls][ref] = {**copy.deepcopy(FIELDS[cls]), **copy.deepcopy(values)}
        self._note(cls, "add", ref)
        return ref

    def get(self, cls: str, ref: str) -> Record:
        """The stored record; do not change it, use `update`. Raises Failure HANDLE_INVALID."""
        try:
            return self._tables[cls][ref]
        except (KeyError, TypeError):
            raise Failure("HANDLE_INVALID", cls, str(ref)) from None

    def update(self, cls: str, ref: str, /, **values: Any) -> None:
        self.get(cls, ref).update(values)
        self._note(cls, "mod", ref)

    def delete(self, cls: str, ref: str) -> None:
        self.get(cls, ref)
        del self._tables[cls][ref]
        self._note(cls, "del", ref)

    def exists(self, cls: str, ref: str) -> bool:
        return ref in self._tables[cls]

    def view(self, cls: str, ref: str) -> Record:
        """The record as callers see it: a copy, with its back references."""
        record = copy.deepcopy(self.get(cls, ref))
        for field in record:
            if (cls, field) in BACK_REFERENCES:
                record[field] = self.pointing_at(cls, field, ref)
        return record

    def pointing_at(self, cls: str, field: str, ref: str) -> list[str]:
        other, pointer = BACK_REFERENCES[cls, field]
        return self.find(other, **{pointer: ref})

    def refs(self, cls: str) -> list[str]:
        return list(self._tables[cls])

    def find(self, cls: str, /, **equal: Any) -> list[str]:
        """References of the objects whose fields have these values, in the order of creation."""
        wanted = list(equal.items())
        return [
            ref
            for ref, record in self._tables[cls].items()
            if all(record[field] == value for field, value in wanted)
        ]

    def by_uuid(self, cls: str, wanted: str) -> str:
        """Raises Failure UUID_INVALID."""
        for ref, record in self._tables[cls].items():
            if record["uuid"] == wanted:
                return ref
        raise Failure("UUID_INVALID", cls, str(wanted))

    def _note(self, cls: str, operation: str, ref: str) -> None:
        self.journal.append(Change(len(self.journal) + 1, cls, operation, ref))
        self.changed.notify_all()
