"""Where Redis is and what proves that it is ours, for both of its clients: the ledger's and Celery's.

Both get the same values, so neither trusts more than the other (docs/adr/0111).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from redis import ConnectionPool, Redis, SSLConnection
from redis.connection import parse_url

from workers.errors import ConfigurationError
from workers.settings import Settings


@dataclass(frozen=True)
class RedisAddress:
    """`url` is redis-py's: `redis://`, `rediss://` or `unix://`; with `rediss://` the server's certificate
    and name are checked before anything is sent. No repr shows what is secret in it."""

    url: str = field(repr=False)
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    ca_file: Path | None = None
    """The CA of Redis's certificate, beside those that the system trusts."""

    @classmethod
    def of(cls, settings: Settings) -> RedisAddress:
        """The configured Redis, or the one that `cbtfleet up` brings along. Raises ConfigurationError when a
        file that it names cannot be read."""
        redis = settings.redis
        if redis.ca_file is not None:
            try:
                redis.ca_file.read_bytes()
            except OSError as error:
                raise ConfigurationError(
                    f"redis.ca_file: cannot read {redis.ca_file}: {error.strerror}"
                ) from error
        return cls(settings.redis_url(), redis.username, redis.read_password(), redis.ca_file)

    def connection(self) -> dict[str, Any]:
        """What redis-py wants to know for one connection, by its own names; `connection_class` says what
        kind. Raises ValueError when the url is none."""
        known = dict(parse_url(self.url))  # type: ignore[no-untyped-call]
        if self.username is not None:
            known["username"] = self.username
        if self.password is not None:
            known["password"] = self.password
        if known.get("connection_class") is SSLConnection:
            known.setdefault("ssl_cert_reqs", "required")
            known.setdefault("ssl_check_hostname", True)
            if self.ca_file is not None:
                known["ssl_ca_certs"] = str(self.ca_file)
        return known

    def client(self, **options: Any) -> Any:
        """A client of redis-py with these options more. Opens no connection. Raises ValueError as
        `connection` does."""
        return Redis.from_pool(ConnectionPool(**self.connection(), **options))

    def __str__(self) -> str:
        """For people: without user name and password."""
        known = self.connection()
        if "path" in known:
            return f"unix://{known['path']}"
        scheme = self.url.partition("://")[0]
        where = f"{known.get('host', 'localhost')}:{known.get('port', 6379)}"
        return f"{scheme}://{where}/{known.get('db', 0)}"


def why_not_trusted(error: BaseException, where: str) -> str | None:
    """One line when TLS with the Redis at `where` failed, from what redis-py raised; None for all else."""
    text = str(error)
    if refused := re.search(r"certificate verify failed: (.+?)\.? \(_ssl", text):
        return (
            f"Redis at {where} is not trusted, nothing was sent to it: {refused[1]}; redis.ca_file must hold"
            " the CA of its certificate, and redis.url the name that is in it"
        )
    if "NO_CERTIFICATE_OR_CRL_FOUND" in text:
        return f"Redis at {where} cannot be checked: there is no certificate in redis.ca_file"
    return None
