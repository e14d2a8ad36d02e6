"""`config` decides nothing: lost or changed, it stops who writes, is named, and is put back."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.key_ring import LOADERS, PASSPHRASE, Made, key_settings, make, no_passphrase
from tests.repository_machine import MemoryStore
from workers.repository import (
    ConfigUntrue,
    Repository,
    RepositoryExists,
    create_repository,
    load_metadata_keys,
    load_private_keys,
    load_worker_keys,
    repair_config,
)


@pytest.fixture
def made(tmp_path: Path) -> Made:
    return make(tmp_path / "keys")


def missing(facts: dict[str, object]) -> bytes | None:
    return None


def for_another_key(facts: dict[str, object]) -> bytes:
    return json.dumps(facts | {"metadata_public_key": facts["order_public_key"]}).encode()


def for_another_order_key(facts: dict[str, object]) -> bytes:
    return json.dumps(facts | {"order_public_key": facts["metadata_public_key"]}).encode()


def of_another_repository(facts: dict[str, object]) -> bytes:
    return json.dumps(facts | {"id": "00000000-0000-0000-0000-000000000000"}).encode()


def not_encrypted(facts: dict[str, object]) -> bytes:
    return json.dumps(facts | {"encrypted": False, "hash_key": facts["order_public_key"]}).encode()


def of_a_later_version(facts: dict[str, object]) -> bytes:
    return json.dumps(facts | {"version": 2}).encode()


def no_json(facts: dict[str, object]) -> bytes:
    return b"[" * 60000


def too_large(facts: dict[str, object]) -> bytes:
    return json.dumps(facts).encode() + b" " * 65536


WRONG = [
    missing, for_another_key, for_another_order_key, of_another_repository, not_encrypted, of_a_later_version,
    no_json, too_large,
]  # fmt: skip


@pytest.mark.parametrize("wrong", WRONG, ids=lambda wrong: wrong.__name__)
def test_a_config_that_is_wrong_stops_who_writes_and_nobody_else(
    made: Made, wrong: Callable[[dict[str, object]], bytes | None]
) -> None:
    before = made.private()
    data = wrong(json.loads(made.store.objects.pop("config")))
    if data is not None:
        made.store.objects["config"] = data
    for load in LOADERS:
        with pytest.raises(ConfigUntrue, match=r"^[^\n]*config[^\n]*$"):
            load(made.store, made.settings)
    told: list[ConfigUntrue] = []
    assert load_metadata_keys(made.store, made.settings, tell=told.append) == before.metadata
    assert load_private_keys(made.store, made.settings, lambda: PASSPHRASE, tell=told.append) == before
    assert len(told) == 2
    Repository.open(made.store, before).open_run("run", b"{}")
    assert repair_config(made.store, before.metadata)
    assert made.private() == before
    assert not repair_config(made.store, before.metadata)


def test_config_is_not_put_where_nothing_is_of_this_repository(made: Made, tmp_path: Path) -> None:
    """A folder that is not mounted is empty; a wrong address may hold another repository."""
    keys = made.private().metadata
    empty, other = MemoryStore(), make(tmp_path / "other")
    Repository.open(other.store, other.private()).open_run("run", b"{}")
    for store in (empty, other.store):
        before = dict(store.objects)
        with pytest.raises(ConfigUntrue, match=r"check the address.*mounted"):
            repair_config(store, keys)
        assert store.objects == before
    assert repair_config(empty, keys, empty=True)
    assert load_worker_keys(empty, made.settings) == keys.worker


@pytest.mark.parametrize(
    "left", ["packs/disk/run/x", "points/vm/run-x", "segments/disk/run/1", "runs/run/open"]
)
def test_no_repository_is_created_where_one_was(tmp_path: Path, left: str) -> None:
    store = MemoryStore()
    store.objects[left] = b"precious"
    with pytest.raises(RepositoryExists, match=rf"{left}.*repair-config"):
        create_repository(store, key_settings(tmp_path), encrypted=True, passphrase=PASSPHRASE)
    assert store.objects == {left: b"precious"}
    assert list(tmp_path.iterdir()) == []


def test_an_unencrypted_repository_with_key_files_is_read_without_its_config(tmp_path: Path) -> None:
    store, chosen = MemoryStore(), key_settings(tmp_path)
    create_repository(store, chosen, encrypted=False, passphrase=None)
    before = load_private_keys(store, chosen, no_passphrase)
    del store.objects["config"]
    assert load_private_keys(store, chosen, no_passphrase, tell=lambda error: None) == before
    assert repair_config(store, before.metadata, empty=True)
    assert load_worker_keys(store, chosen) == before.metadata.worker
