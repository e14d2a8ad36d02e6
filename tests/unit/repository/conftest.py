"""Every test of the repository runs on a store in memory, encrypted and not."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.repository_machine import ENCRYPTED, PLAIN, Machine, MemoryStore
from workers.repository import PrivateKeys


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture(params=["encrypted", "unencrypted"])
def keys(request: pytest.FixtureRequest) -> PrivateKeys:
    return ENCRYPTED if request.param == "encrypted" else PLAIN


@pytest.fixture
def machine(store: MemoryStore, keys: PrivateKeys) -> Callable[[int], Machine]:
    return lambda size: Machine(store, keys, size)


@pytest.fixture
def damage(store: MemoryStore) -> Callable[[str, int], None]:
    """Flips one bit of an object; negative positions count from its end."""

    def flip(key: str, position: int) -> None:
        data = bytearray(store.objects[key])
        data[position] ^= 0x10
        store.objects[key] = bytes(data)

    return flip
