"""Loads the Lua scripts, runs them, and is the one place where exceptions of redis-py become ours."""

from __future__ import annotations

import dataclasses
import re
import secrets
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from redis import exceptions
from redis.commands.core import Script

from workers.fleet.errors import LedgerError, LedgerUnreachable, StepLost, UnknownToLedger
from workers.fleet.keys import KEYS
from workers.fleet.timing import Limits, Timing
from workers.redis_address import why_not_trusted

FOLDER = Path(__file__).with_name("lua")
PRELUDES = "prelude"

RedisClient = Any
"""A `redis.Redis` that does not decode responses. Its own annotations mix the answers of the synchronous
and the asynchronous client, so they cannot be checked against."""


_claim: ContextVar[tuple[str, ...]] = ContextVar("claim", default=())
"""Id and fence of the step that this thread does."""


class Scripts:
    """The scripts of `lua/` by name, on one Redis, with one set of durations and limits."""

    def __init__(self, client: RedisClient, timing: Timing, limits: Limits) -> None:
        if client.get_connection_kwargs().get("decode_responses"):
            raise ValueError(
                "the ledger needs a Redis client that does not decode responses: plans are bytes"
            )
        self._client = client
        self.timing = timing
        self.limits = limits
        self._loaded: dict[str, Script] = {}

    def call(self, name: str, *arguments: str | bytes | int | float) -> Any:
        """Runs `lua/<name>.lua`. Raises LedgerUnreachable, UnknownToLedger or LedgerError."""
        if name not in self._loaded:
            text = compose(FOLDER, name, self.timing, self.limits)
            self._loaded[name] = self._client.register_script(text)
        script = self._loaded[name]
        with translated(self._client):
            return script(keys=_claim.get(), args=arguments)

    @contextmanager
    def claimed(self, step: str, fence: str) -> Iterator[None]:
        """Within it every call of this thread brings the claim (lua/prelude/claim.lua)."""
        token = _claim.set((step, fence))
        try:
            yield
        finally:
            _claim.reset(token)

    @property
    def socket_timeout(self) -> float | None:
        timeout: float | None = self._client.get_connection_kwargs().get("socket_timeout")
        return timeout

    def command(self, *parts: str | bytes | int | float) -> Any:
        """One plain Redis command."""
        with translated(self._client):
            return self._client.execute_command(*parts)

    def commands(self, commands: Sequence[tuple[str, ...]]) -> list[Any]:
        """Several plain commands in one round trip, not atomic."""
        with translated(self._client), self._client.pipeline(transaction=False) as pipeline:
            for parts in commands:
                pipeline.execute_command(*parts)
            answers: list[Any] = pipeline.execute()
            return answers


def compose(folder: Path, name: str, timing: Timing, limits: Limits) -> str:
    """One script's full text: the constants, the preludes it uses, itself.

    A script names its preludes in its first line, `-- uses: slot, wake`; a prelude may use others.
    """
    order: list[str] = []
    body = _with_preludes(folder, folder / f"{name}.lua", order)
    return "\n".join([_constants(timing, limits), *order, body])


def _with_preludes(folder: Path, path: Path, order: list[str]) -> str:
    text = path.read_text(encoding="utf-8")
    uses = re.match(r"-- uses: (.+)\n", text)
    for prelude in uses[1].split(", ") if uses else []:
        source = _with_preludes(folder, folder / PRELUDES / f"{prelude}.lua", order)
        if source not in order:
            order.append(source)
    return text


def _constants(timing: Timing, limits: Limits) -> str:
    milliseconds = {field: round(seconds * 1000) for field, seconds in dataclasses.asdict(timing).items()}
    return "\n".join(
        f"local {name} = {{{', '.join(f'{key}={_literal(value)}' for key, value in table.items())}}}"
        for name, table in (("TIMING", milliseconds), ("LIMIT", dataclasses.asdict(limits)), ("KEY", KEYS))
    )


def _literal(value: str | int | float) -> str:
    return f"'{value}'" if isinstance(value, str) else repr(value)


def short(error: str) -> str:
    """As much of an error text as the ledger keeps: one line that a person reads."""
    return error[:500]


def request_id() -> str:
    """Names one call, so that redis-py sending it twice after a lost answer has the effect of once."""
    return secrets.token_hex(8)


def call_number() -> int:
    """Names one call among those of one thread: a later one has a larger number. Microseconds of the
    monotonic clock: a call takes longer than one."""
    return time.monotonic_ns() // 1000


def text(value: bytes | None) -> str:
    return value.decode() if value is not None else ""


@contextmanager
def translated(client: RedisClient) -> Iterator[None]:
    """Turns redis-py's exceptions into ours; the texts name the server's address, never its password."""
    try:
        yield
    except exceptions.AuthenticationError as error:
        raise LedgerUnreachable(f"Redis at {address(client)} refuses the user name or password") from error
    except (exceptions.ConnectionError, exceptions.TimeoutError) as error:
        where, said = address(client), _first_line(str(error)) or type(error).__name__
        raise LedgerUnreachable(
            why_not_trusted(error, where) or f"Redis at {where} does not answer: {said}"
        ) from error
    except exceptions.ResponseError as error:
        raise _refusal(str(error), address(client)) from error


def _refusal(answer: str, where: str) -> LedgerError:
    """What an error reply means. Redis 6.2 wraps a failed command's reply into that of the script, so the
    marks are looked for anywhere in it."""
    ours = re.match(r"(LEDGER|UNKNOWN|LOST) (.*)", answer)
    if ours is not None:
        return {"LEDGER": LedgerError, "UNKNOWN": UnknownToLedger, "LOST": StepLost}[ours[1]](ours[2])
    if "read only replica" in answer:
        return LedgerUnreachable(
            f"Redis at {where} is a read-only replica (a failover?); the ledger needs the master"
        )
    if "when used memory > 'maxmemory'" in answer:
        return LedgerUnreachable(
            f"Redis at {where} is out of memory: raise its maxmemory (policy noeviction)"
        )
    if "BUSY Redis is busy" in answer:
        return LedgerUnreachable(f"Redis at {where} is busy with a call that takes long")
    if refused := re.search(r"(MISCONF|NOREPLICAS) .*", answer):
        return LedgerUnreachable(f"Redis at {where} takes no writes: {_first_line(refused[0])}")
    return LedgerError(f"Redis at {where} failed a ledger call: {_first_line(answer)}")


def address(client: RedisClient) -> str:
    """Where the client connects to, without user name and password."""
    known = client.get_connection_kwargs()
    return str(known.get("path") or f"{known.get('host', 'localhost')}:{known.get('port', 6379)}")


def _first_line(message: str) -> str:
    """Short: a person reads it."""
    return message.partition("\n")[0][:200]
