"""Redis: there, new enough, never evicting, keeping what it is told; and its clock."""

from __future__ import annotations

import time
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from scheduler.checks.check import Check, failed, ok, warning
from scheduler.checks.clock import clock_check
from workers.settings import Settings

OLDEST = (6, 2)
"""The Redis that Celery 5.7 needs."""


def check_redis(settings: Settings) -> list[Check]:
    own = settings.redis.url is None
    once = Retry(NoBackoff(), 0)
    client = redis.Redis.from_url(
        settings.redis_url(), socket_connect_timeout=5, socket_timeout=5, retry=once
    )
    try:
        started = time.monotonic()
        client.ping()
        milliseconds = (time.monotonic() - started) * 1000
        return [
            ok("redis", f"answers in {milliseconds:.1f} ms"),
            check_version(str(_info(client, "server").get("redis_version", ""))),
            check_eviction(_config(client, "maxmemory-policy"), _config(client, "maxmemory")),
            check_persistence(_config(client, "appendonly"), _config(client, "save")),
            _check_clock(client),
        ]
    except redis.AuthenticationError:
        return [failed("redis", "refuses our password", "set the right password in redis.url")]
    except redis.RedisError as error:
        if own:
            return [_own_redis_is_down()]
        return [
            failed("redis", f"does not answer: {type(error).__name__}", "check redis.url, and that it runs")
        ]
    finally:
        client.close()


def _own_redis_is_down() -> Check:
    said = "none is configured, and the one of `cbtfleet up` is not running"
    return warning("redis", said, 'start "cbtfleet up", or set redis.url')


def check_version(version: str) -> Check:
    numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
    if numbers >= OLDEST:
        return ok("redis version", version)
    needed = ".".join(map(str, OLDEST))
    return failed(
        "redis version", f"{version or 'unknown'}; {needed} is the oldest that works", "upgrade Redis"
    )


def check_eviction(policy: str | None, limit: str | None) -> Check:
    name = "redis eviction"
    if policy is None:
        todo = "make sure that maxmemory-policy is noeviction"
        return warning(name, "its configuration may not be read", todo)
    if policy == "noeviction":
        return ok(name, "noeviction")
    todo = "CONFIG SET maxmemory-policy noeviction, and the same in redis.conf"
    if limit in ("0", None):
        return warning(name, f"{policy}, harmless only while maxmemory is not set", todo)
    return failed(name, f"{policy}: under memory pressure it would forget slots and batches", todo)


def check_persistence(appendonly: str | None, save: str | None) -> Check:
    name = "redis persistence"
    if appendonly is None:
        return warning(name, "its configuration may not be read", "make sure that appendonly is yes")
    if appendonly == "yes":
        return ok(name, "append-only file")
    said = "snapshots only" if save else "none"
    todo = "set appendonly yes: a restart then loses no progress (restore points are safe either way)"
    return warning(name, said, todo)


def _check_clock(client: Any) -> Check:
    before = time.time()
    seconds, microseconds = client.time()
    return clock_check("redis clock", seconds + microseconds / 1e6 - (before + time.time()) / 2)


def _info(client: Any, section: str) -> dict[str, Any]:
    return dict(client.info(section))


def _config(client: Any, key: str) -> str | None:
    """None when the server does not let us read its configuration (managed services)."""
    try:
        value = client.config_get(key).get(key)
    except redis.ResponseError:
        return None
    return None if value is None else str(value)
