"""Redis: there, new enough, quick, never evicting, keeping what it is told; and its clock."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping
from contextlib import closing
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from scheduler.checks.check import Check, Subject, counted
from scheduler.checks.clock import clock_check
from workers.errors import ConfigurationError
from workers.redis_address import RedisAddress, why_not_trusted
from workers.settings import Settings

REDIS = Subject("Redis")

OLDEST = (6, 2)
"""The Redis that Celery 5.7 needs."""

PINGS = 21
SLOW = 0.05
"""Seconds for a round trip: a stream asks once for every 32 MiB, and a lease is renewed within 10 s."""

FULL = 0.8
"""The part of maxmemory from which on to say so: with noeviction a full Redis takes no more grants."""

_OURS = "cbtfleet:"
"""What every key of ours begins with, the queues' too."""

_LOOKED_AT = 1000
"""Keys looked at, in one call, for another program's."""


def check_redis(settings: Settings) -> list[Check]:
    own = settings.redis.url is None
    once = Retry(NoBackoff(), 0)
    try:
        address = RedisAddress.of(settings)
        client = address.client(socket_connect_timeout=5, socket_timeout=5, retry=once)
    except ConfigurationError as error:
        return [REDIS.failed("redis", str(error), "see to that file")]
    except ValueError:
        return [REDIS.failed("redis", "redis.url is not an address of a Redis", "write redis://host:port/db")]
    with closing(client):
        try:
            client.ping()
            server, memory = _info(client, "server"), _info(client, "memory")
            checks = [
                REDIS.ok("redis", "answers"),
                check_version(str(server.get("redis_version", ""))),
                check_eviction(_config(client, "maxmemory-policy"), _config(client, "maxmemory")),
                check_persistence(_config(client, "appendonly"), _config(client, "save")),
                check_latency(_round_trip(client)),
                check_memory(int(memory.get("used_memory", 0)), int(memory.get("maxmemory", 0))),
                _check_keys(client),
                _check_clock(client),
            ]
        except redis.AuthenticationError:
            todo = "set the right redis.username and password_file"
            return [REDIS.failed("redis", "refuses our password", todo)]
        except redis.RedisError as error:
            if own:
                said = "none is configured, and the one of `cbtfleet up` is not running"
                return [REDIS.warning("redis", said, 'start "cbtfleet up", or set redis.url')]
            if (line := why_not_trusted(error, str(address))) is not None:
                return [REDIS.failed("redis", line, "check redis.ca_file and redis.url")]
            todo = "check redis.url, and that it runs"
            return [REDIS.failed("redis", f"does not answer: {type(error).__name__}", todo)]
    return checks


def check_version(version: str) -> Check:
    numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
    if numbers >= OLDEST:
        return REDIS.ok("redis.version", version)
    needed = ".".join(map(str, OLDEST))
    said = f"{version or 'unknown'}; {needed} is the oldest that works"
    return REDIS.failed("redis.version", said, "upgrade Redis")


def check_eviction(policy: str | None, limit: str | None) -> Check:
    name = "redis.eviction"
    if policy is None:
        todo = "make sure that maxmemory-policy is noeviction"
        return REDIS.warning(name, "its configuration may not be read", todo)
    if policy == "noeviction":
        return REDIS.ok(name, "noeviction")
    todo = "CONFIG SET maxmemory-policy noeviction, and the same in redis.conf"
    if limit in ("0", None):
        return REDIS.warning(name, f"{policy}, harmless only while maxmemory is not set", todo)
    return REDIS.failed(name, f"{policy}: under memory pressure it would forget slots and batches", todo)


def check_persistence(appendonly: str | None, save: str | None) -> Check:
    name = "redis.persistence"
    if appendonly is None:
        return REDIS.warning(name, "its configuration may not be read", "make sure that appendonly is yes")
    if appendonly == "yes":
        return REDIS.ok(name, "append-only file")
    said = "snapshots only" if save else "none"
    todo = "set appendonly yes: a restart then loses no progress (restore points are safe either way)"
    return REDIS.warning(name, said, todo)


def check_latency(seconds: float) -> Check:
    said = f"{seconds * 1000:.1f} ms a round trip (median of {PINGS})"
    if seconds <= SLOW:
        return REDIS.ok("redis.latency", said)
    return REDIS.warning("redis.latency", said, "use a Redis nearer to this machine, or one that does less")


def check_memory(used: int, limit: int) -> Check:
    said = f"{used / (1 << 20):.1f} MiB used"
    if not limit:
        return REDIS.ok("redis.memory", f"{said}, no maxmemory")
    said += f" of maxmemory {limit / (1 << 20):.1f} MiB"
    if used < limit * FULL:
        return REDIS.ok("redis.memory", said)
    return REDIS.warning("redis.memory", said, "raise maxmemory: when it is full nothing is granted any more")


def _round_trip(client: Any) -> float:
    times = []
    for _ in range(PINGS):
        started = time.monotonic()
        client.ping()
        times.append(time.monotonic() - started)
    return statistics.median(times)


def _check_keys(client: Any) -> Check:
    """Another program in the same database may flush it, or fill it."""
    total = client.dbsize()
    _, sample = client.scan(count=_LOOKED_AT)
    foreign = [key for key in sample if not key.decode(errors="replace").startswith(_OURS)]
    if foreign:
        said = (
            f"{counted(total, 'key')} in this database; some, like {_shown(foreign[0])}, are not cbtfleet's"
        )
        return REDIS.warning("redis.keys", said, "give cbtfleet a database of its own in redis.url")
    return REDIS.ok("redis.keys", f"{counted(total, 'key')} in this database, none that is another program's")


def _shown(key: bytes) -> str:
    """Its beginning: names of other people's keys may hold more than a name."""
    return repr(key.decode(errors="replace")[:12])


def _check_clock(client: Any) -> Check:
    before = time.time()
    seconds, microseconds = client.time()
    return clock_check(REDIS, "redis.clock", seconds + microseconds / 1e6 - (before + time.time()) / 2)


def _info(client: Any, section: str) -> Mapping[str, Any]:
    """What INFO tells: foreign values, by its own names."""
    return dict(client.info(section))


def _config(client: Any, key: str) -> str | None:
    """None when the server does not let us read its configuration (managed services)."""
    try:
        value = client.config_get(key).get(key)
    except redis.ResponseError:
        return None
    return None if value is None else str(value)
