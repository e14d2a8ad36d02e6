"""What is left of the backups when a worker's credentials for the store are stolen."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import closing
from dataclasses import dataclass

from scheduler.checks.check import Check, Subject, counted
from workers.fleet import Node
from workers.repository import (
    AccessDenied,
    ObjectLock,
    Store,
    Versioning,
    credentials_mark,
    object_lock_of,
    open_store,
    versioning_of,
)
from workers.settings import RepositorySettings

NAME = "store.worker-credentials"

_REPLACES = "replace those whose names he knows, unless the store demands If-None-Match of him"

_TODO = (
    "give the workers credentials of their own, as in infra/store-policies; or turn versioning or object lock"
    " on, where the store honours If-None-Match all the same"
)


@dataclass(frozen=True)
class Keeping:
    """What a bucket keeps of what is replaced or deleted, and who asks."""

    lock: ObjectLock
    versioning: Versioning
    mark: str
    """Of the credentials of this machine."""
    lists: bool
    """Whether these may list, which a worker's own need not."""


def read_keeping(settings: RepositorySettings) -> Keeping | None:
    """None for a store that is no bucket. Raises ConfigurationError, StoreError."""
    with closing(open_store(settings)) as store:
        lock, versioning = object_lock_of(store), versioning_of(store)
        if lock is None or versioning is None:
            return None
        return Keeping(lock, versioning, credentials_mark(store), may_list(store))


def may_list(store: Store) -> bool:
    """Raises StoreError."""
    try:
        next(iter(store.list("config")), None)
    except AccessDenied:
        return False
    return True


def check_versioning(subject: Subject, keeping: Keeping) -> Check:
    name = "store.versioning"
    if keeping.versioning == "not known":
        return subject.ok(name, "not known: the store does not tell, or not these credentials")
    if keeping.versioning == "on":
        return subject.ok(name, "on: what is replaced or deleted stays as an older version")
    return subject.ok(name, f"{keeping.versioning}: what is replaced or deleted is gone")


def check_worker_credentials(subject: Subject, keeping: Keeping, nodes: Collection[Node]) -> Check:
    """`nodes` say themselves which credentials they have: a hint, and only a warning depends on it."""
    thief = "who steals a worker's credentials"
    if keeping.lock.retention:
        said = f"{thief} can put objects and hide others, and destroys none for {keeping.lock.retention}"
        return subject.ok(NAME, said)
    if keeping.versioning == "on":
        said = f"{thief} can put objects and hide others; older versions stay, unless he may delete versions"
        return subject.ok(NAME, said)
    if not keeping.lists:
        return subject.ok(NAME, f"who steals these, which may not list, can put packs, and {_REPLACES}")
    if not keeping.mark or not any(node.credentials for node in nodes):
        said = f"no worker node says which it has; {thief} can delete every backup if they are these here"
        return subject.ok(NAME, said)
    sharing = sum(node.credentials == keeping.mark for node in nodes)
    if sharing:
        said = (
            f"{counted(sharing, 'worker node')} with the same as this machine, and the bucket has neither"
            " versioning nor object lock: who steals them can delete every backup"
        )
        return subject.warning(NAME, said, _TODO)
    return subject.ok(NAME, f"the workers' are their own: who steals them can put packs, and {_REPLACES}")
