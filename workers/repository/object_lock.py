"""Whether a store locks what is put into it: a question for people, nothing here depends on the answer."""

from __future__ import annotations

from dataclasses import dataclass

from workers.repository.s3_store import S3Store
from workers.repository.store import Store


@dataclass(frozen=True)
class ObjectLock:
    """Of a bucket. `retention` is the default one, for people ("30 days, GOVERNANCE"), "" without one."""

    known: bool
    enabled: bool = False
    retention: str = ""


def object_lock_of(store: Store) -> ObjectLock | None:
    """None for a store that has no such thing. A store that does not tell is not `known`. Raises nothing."""
    if not isinstance(store, S3Store):
        return None
    found = store.object_lock()
    if found is None:
        return ObjectLock(known=False)
    retention = found.get("Rule", {}).get("DefaultRetention", {})
    length = next(
        (f"{retention[unit]} {unit.lower()}" for unit in ("Days", "Years") if retention.get(unit)), ""
    )
    mode = retention.get("Mode", "")
    return ObjectLock(
        True, found.get("ObjectLockEnabled") == "Enabled", f"{length}, {mode}" if length else ""
    )
