"""Whether a store keeps what was put, and whose credentials we have: told to people, decides nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from blake3 import blake3

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


Versioning = Literal["on", "off", "suspended", "not known"]


def versioning_of(store: Store) -> Versioning | None:
    """Whether the bucket keeps older versions; None for a store that has no such thing. Raises nothing."""
    if not isinstance(store, S3Store):
        return None
    found = store.versioning()
    if found is None:
        return "not known"
    return "on" if found == "Enabled" else "suspended" if found == "Suspended" else "off"


def credentials_mark(store: Store) -> str:
    """16 hexadecimal digits, the same for the same access key id; empty where there is none.

    Short-lived credentials have another id each time, so equal marks tell more than different ones.
    """
    key_id = store.access_key_id() if isinstance(store, S3Store) else ""
    return blake3(key_id.encode()).hexdigest(length=8) if key_id else ""
