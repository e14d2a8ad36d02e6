"""The store: reachable, refusing to overwrite, how quick; and that a repository is in it."""

from __future__ import annotations

import secrets
import shutil
import statistics
import time
from contextlib import closing
from pathlib import Path
from urllib.parse import unquote

from scheduler.checks.check import Check, Subject
from scheduler.checks.worker_credentials import may_list
from scheduler.terminal.tables import size
from workers.errors import CbtfleetError
from workers.repository import ObjectMissing, Store, honours_put_if_absent, object_lock_of, open_store
from workers.settings import RepositorySettings

STORE = Subject("store")

ROUND_TRIPS = 3
SLOW = 0.5
"""Seconds for one small request: a restore's parallel ranges hide 100 ms, not this."""

NEARLY_FULL = 0.05
"""The part of a file system that is free, below which to say so."""

_SMALL = bytes(4096)


def check_store(settings: RepositorySettings) -> list[Check]:
    """Without a store there is no use in asking more: then the one Check says what is wrong."""
    try:
        with closing(open_store(settings)) as store:
            lists = may_list(store)
            is_there = next(iter(store.list("config")), None) is not None if lists else _has_config(store)
            found = [STORE.ok("store", f"{settings.url} is reachable")]
            locked, check = _check_object_lock(store)
            found += check
            if not lists:
                said = "not tried: these credentials may not list, as a worker's; the scheduler's may"
                found.append(STORE.ok("store.put-if-absent", said))
            elif locked:
                said = "not tried: the bucket's retention would keep the test objects; cbtfleet init tried it"
                found.append(STORE.ok("store.put-if-absent", said))
            else:
                found.append(_check_put_if_absent(store))
                found.append(_check_latency(store))
            found += _check_space(settings.url)
            if is_there:
                found.append(STORE.ok("repository", "is there"))
            else:
                found.append(STORE.failed("repository", "there is none in the store", "cbtfleet init"))
            return found
    except CbtfleetError as error:
        todo = "check repository.url, endpoint_url, region and the credentials"
        return [STORE.failed("store", str(error), todo)]


def _has_config(store: Store) -> bool:
    """For who may not list. Raises AccessDenied when these credentials may do nothing at all."""
    try:
        store.head("config")
    except ObjectMissing:
        return False
    return True


def _check_latency(store: Store) -> Check:
    """Of putting and getting a small object, which goes again whatever happens."""
    name = "store.latency"
    puts, gets = [], []
    try:
        for _ in range(ROUND_TRIPS):
            key = f"probe-{secrets.token_hex(16)}"
            try:
                started = time.monotonic()
                store.put_if_absent(key, _SMALL)
                between = time.monotonic()
                store.get(key, len(_SMALL))
                gets.append(time.monotonic() - between)
                puts.append(between - started)
            finally:
                store.delete(key)
    except CbtfleetError as error:
        todo = "give these credentials leave to put, get and delete objects"
        return STORE.failed(name, str(error), todo)
    put, get = statistics.median(puts), statistics.median(gets)
    said = f"{put * 1000:.1f} ms a small put, {get * 1000:.1f} ms a get (median of {ROUND_TRIPS})"
    if max(put, get) < SLOW:
        return STORE.ok(name, said)
    return STORE.warning(name, said, "use a store, or a region, nearer to this machine")


def _check_put_if_absent(store: Store) -> Check:
    name = "store.put-if-absent"
    try:
        honoured = honours_put_if_absent(store)
    except CbtfleetError as error:
        return STORE.failed(name, str(error), "give these credentials leave to put and delete objects")
    if honoured:
        return STORE.ok(name, "honoured: nothing is ever overwritten")
    return STORE.failed(
        name,
        "the store overwrites an object although it was told not to (If-None-Match)",
        "use an S3 server that supports conditional writes, or file:///…",
    )


def _check_object_lock(store: Store) -> tuple[bool, list[Check]]:
    """Whether whatever is put stays for a time; and the line about it, where the store can tell."""
    name = "store.object-lock"
    lock = object_lock_of(store)
    if lock is None:
        return False, []
    if not lock.known:
        return False, [STORE.ok(name, "not known: the store does not tell, or not these credentials")]
    if not lock.enabled:
        return False, [STORE.ok(name, "off: who may delete in this bucket can delete backups")]
    if not lock.retention:
        return False, [STORE.ok(name, "on, without a default retention: objects are not locked by it")]
    return True, [STORE.ok(name, f"on: every object is kept for {lock.retention}")]


def _check_space(url: str) -> list[Check]:
    """Of a folder; a bucket has no end that it would tell."""
    name = "store.space"
    if not url.startswith("file://"):
        return []
    usage = shutil.disk_usage(Path(unquote(url.removeprefix("file://"))))
    said = f"{size(usage.free)} of {size(usage.total)} free"
    if usage.free >= usage.total * NEARLY_FULL:
        return [STORE.ok(name, said)]
    return [STORE.warning(name, said, "make room: a run whose store is full fails")]
