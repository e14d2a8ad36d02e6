"""The store: reachable, refusing to overwrite, how quick; and that a repository is in it."""

from __future__ import annotations

import time
from contextlib import closing

from scheduler.checks.check import Check, failed, ok, warning
from workers.errors import CbtfleetError
from workers.repository import Store, honours_put_if_absent, open_store
from workers.settings import RepositorySettings

ROUND_TRIPS = 5
SLOW = 0.5
"""Seconds for one small request: a restore's parallel ranges hide 100 ms, not this."""


def check_store(settings: RepositorySettings) -> list[Check]:
    """Without a store there is no use in asking more: then the one Check says what is wrong."""
    try:
        with closing(open_store(settings)) as store:
            first = next(iter(store.list("config")), None)
            found = [ok("store", f"{settings.url} is reachable")]
            found.append(_check_latency(store))
            found.append(_check_put_if_absent(store))
            if first is None:
                found.append(failed("repository", "there is none in the store", "cbtfleet init"))
            else:
                found.append(ok("repository", "is there"))
            return found
    except CbtfleetError as error:
        return [failed("store", str(error), "check repository.url, endpoint_url, region and the credentials")]


def _check_latency(store: Store) -> Check:
    started = time.monotonic()
    for _ in range(ROUND_TRIPS):
        next(iter(store.list("config")), None)
    seconds = (time.monotonic() - started) / ROUND_TRIPS
    said = f"{seconds * 1000:.1f} ms a request"
    if seconds < SLOW:
        return ok("store latency", said)
    return warning("store latency", said, "use a store, or a region, nearer to this machine")


def _check_put_if_absent(store: Store) -> Check:
    try:
        honoured = honours_put_if_absent(store)
    except CbtfleetError as error:
        return failed(
            "store put-if-absent", str(error), "give these credentials leave to put and delete objects"
        )
    if honoured:
        return ok("store put-if-absent", "honoured: nothing is ever overwritten")
    return failed(
        "store put-if-absent",
        "the store overwrites an object although it was told not to (If-None-Match)",
        "use an S3 server that supports conditional writes, or file:///…",
    )
