"""A new repository in memory, with its key files in a folder: what the tests of keys begin with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.repository_machine import MemoryStore
from workers.repository import (
    Created,
    PrivateKeys,
    create_repository,
    load_metadata_keys,
    load_private_keys,
    load_worker_keys,
)
from workers.settings import RepositorySettings

PASSPHRASE = "correct horse"
QUICK = 10
"""log_n of scrypt in tests: a millisecond, not a third of a second."""

FILES = ("public_key_file", "metadata_key_file", "private_key_file")


def key_settings(folder: Path, **changes: Path | None) -> RepositorySettings:
    paths: dict[str, Path | None] = {name: folder / f"{name}.json" for name in FILES}
    return RepositorySettings.model_validate({"url": "file:///unused", **paths, **changes})


def no_passphrase() -> str:
    raise AssertionError("asked for a passphrase")


@dataclass
class Made:
    store: MemoryStore
    settings: RepositorySettings
    created: Created

    @property
    def recovery_key(self) -> str:
        assert self.created.recovery_key is not None
        return self.created.recovery_key

    def private(self, passphrase: str = PASSPHRASE) -> PrivateKeys:
        return load_private_keys(self.store, self.settings, lambda: passphrase)


def make(folder: Path) -> Made:
    folder.mkdir(exist_ok=True)
    store, chosen = MemoryStore(), key_settings(folder)
    made = create_repository(store, chosen, encrypted=True, passphrase=PASSPHRASE, scrypt_log_n=QUICK)
    return Made(store, chosen, made)


Load = Callable[[MemoryStore, RepositorySettings], object]
LOADERS: list[Load] = [
    load_worker_keys,
    load_metadata_keys,
    lambda store, chosen: load_private_keys(store, chosen, lambda: PASSPHRASE),
]
