"""Looks at Redis while everything goes on: is a secret in it, and how long does a slot rest?"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import redis

from tests.faults.fleet import PASSPHRASE, Fleet
from workers.errors import CbtfleetError
from workers.fleet import Ledger
from workers.settings import Settings

EVERY = 0.5
SECRETS_EVERY = 4.0


def secrets_of(fleet: Fleet) -> dict[str, bytes]:
    found = {
        "the pool's password": Path(fleet.pool.facts["password_file"]).read_bytes().strip(),
        "the passphrase": PASSPHRASE.encode(),
        "an export name or a session": b"session_id",
        "a reference": b"OpaqueRef:",
    }
    for name in ("public", "metadata", "private"):
        file = fleet.folder / "keys" / f"{name}.key"
        for number, word in enumerate(file.read_bytes().split() if file.exists() else ()):
            if len(word) >= 40:
                found[f"word {number} of the {name} key file"] = word.strip(b'",')
    return found


@dataclass(frozen=True)
class Look:
    """One host's slots at one moment, by the ledger."""

    time: float
    host: str
    used: int
    resting: set[tuple[int, int]]
    """Number and fence of those in QUARANTINE."""


def longest_rest(looks: Iterable[Look], connections: Iterable[Mapping[str, Any]]) -> float:
    """Seconds that a grant was seen in QUARANTINE while its host counted fewer than slots were in use."""
    held = [one for one in connections if one["outcome"] != "rejected-busy"]
    since: dict[tuple[str, int, int], float] = {}
    longest = 0.0
    for look in looks:
        counted = sum(
            one["host"] == look.host and one["opened"] <= look.time < (one["freed"] or float("inf"))
            for one in held
        )
        idle = {(look.host, *slot) for slot in look.resting} if counted < look.used else set()
        for gone in [slot for slot in since if slot[0] == look.host and slot not in idle]:
            del since[gone]
        for slot in idle:
            longest = max(longest, look.time - since.setdefault(slot, look.time))
    return round(longest, 1)


class Sampler:
    def __init__(self, settings: Settings, fleet: Fleet) -> None:
        self._settings = settings
        self._fleet = fleet
        self._secrets = secrets_of(fleet)
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._sample, name="sampler", daemon=True)
        self._looks: list[Look] = []
        self.spilt: set[str] = set()

    @classmethod
    @contextmanager
    def start(cls, settings: Settings, fleet: Fleet) -> Iterator[Sampler]:
        sampler = cls(settings, fleet)
        sampler._thread.start()
        try:
            yield sampler
        finally:
            sampler.stop()

    def stop(self) -> None:
        """The last look is at all logs."""
        if self._end.is_set():
            return
        self._end.set()
        self._thread.join()
        self._look_into_redis()
        for path in self._fleet.folder.glob("*.log"):
            self._look_at(path.name, path.read_bytes())

    def longest_rest(self, connections: list[Mapping[str, Any]]) -> float:
        """By the hosts' log, `connections`: how long a slot rested for nothing, in seconds."""
        return longest_rest(self._looks, connections)

    def _sample(self) -> None:
        looked = time.monotonic()
        while not self._end.wait(EVERY):
            with (
                suppress(CbtfleetError),
                closing(Ledger.open(self._settings)) as ledger,
                (self._fleet.folder / "slots.txt").open("a") as out,
            ):
                for host in ledger.hosts():
                    slots = ledger.slots(host.pool, host.host)
                    used = [slot for slot in slots if slot.state != "FREE"]
                    resting = {(slot.number, slot.fence) for slot in used if slot.state == "QUARANTINE"}
                    self._looks.append(Look(time.time(), host.host, len(used), resting))
                    states = " ".join(
                        f"{slot.number}:{slot.state}:{slot.disk[:6]}{' stuck' * slot.stuck}" for slot in used
                    )
                    out.write(
                        f"{time.monotonic() - self._fleet.began:7.2f} {host.host[:8]}"
                        f" unaccounted {host.unaccounted}, lowered {host.lowered}: {states}\n"
                    )
            if time.monotonic() - looked > SECRETS_EVERY:
                self._look_into_redis()
                looked = time.monotonic()

    def _look_into_redis(self) -> None:
        with suppress(redis.RedisError), closing(self._fleet.redis.client()) as client:
            for key in client.scan_iter(count=1000):
                self._look_at(
                    f"Redis key {key.decode(errors='replace')}", key + b" " + b" ".join(_values(client, key))
                )

    def _look_at(self, where: str, text: bytes) -> None:
        for what, secret in self._secrets.items():
            if secret in text:
                self.spilt.add(f"{what} in {where}")


def _values(client: Any, key: bytes) -> Iterator[bytes]:
    kind = client.type(key)
    if kind == b"string":
        yield client.get(key) or b""
    elif kind == b"hash":
        for name, value in client.hgetall(key).items():
            yield from (name, value)
    elif kind == b"list":
        yield from client.lrange(key, 0, -1)
    elif kind == b"set":
        yield from client.smembers(key)
    elif kind == b"zset":
        yield from client.zrange(key, 0, -1)
