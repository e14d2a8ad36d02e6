"""Where Redis is, for both of its clients: the ledger's and Celery's."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from redis.connection import parse_url

from workers.settings import Settings


@dataclass(frozen=True)
class RedisAddress:
    """`url` is redis-py's: `redis://`, `rediss://` or `unix://`. No repr shows what is secret in it."""

    url: str = field(repr=False)

    @classmethod
    def of(cls, settings: Settings) -> RedisAddress:
        """The configured Redis, or the one that `cbtfleet up` brings along."""
        return cls(settings.redis_url())

    def connection(self) -> dict[str, Any]:
        """What redis-py wants to know for one connection, by its own names; `connection_class` says what
        kind. Raises ValueError when the url is none."""
        return dict(parse_url(self.url))  # type: ignore[no-untyped-call]

    def __str__(self) -> str:
        """For people: without user name and password."""
        known = self.connection()
        if "path" in known:
            return f"unix://{known['path']}"
        scheme = self.url.partition("://")[0]
        where = f"{known.get('host', 'localhost')}:{known.get('port', 6379)}"
        return f"{scheme}://{where}/{known.get('db', 0)}"
