"""Creating a repository, its key files and its recovery key; loading them, and refusing wrong ones."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest

from tests.key_ring import (
    FILES,
    LOADERS,
    PASSPHRASE,
    QUICK,
    Load,
    Made,
    key_settings,
    make,
    no_passphrase,
)
from tests.repository_machine import MemoryStore
from workers.errors import ConfigurationError
from workers.repository import (
    ConfigUntrue,
    DamagedObject,
    RepositoryExists,
    RepositoryMissing,
    create_repository,
    load_metadata_keys,
    load_private_keys,
    load_worker_keys,
    read_config,
    recover_private_key,
)
from workers.repository.keys import public_of
from workers.repository.recovery_key import RecoveryKey, decode_recovery_key, encode_recovery_key
from workers.repository.store import Buffer
from workers.settings import RepositorySettings


@pytest.fixture(autouse=True)
def _no_passphrase_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CBTFLEET_PASSPHRASE", raising=False)


@pytest.fixture
def made(tmp_path: Path) -> Made:
    return make(tmp_path / "keys")


def test_key_files_are_for_their_owner_alone(made: Made) -> None:
    assert len(made.created.files) == 3
    for path in made.created.files:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_each_holder_gets_the_keys_that_are_meant_for_him(made: Made) -> None:
    private = made.private()
    assert load_worker_keys(made.store, made.settings) == private.metadata.worker
    assert load_metadata_keys(made.store, made.settings) == private.metadata
    assert private.repository == made.created.repository_id == read_config(made.store).id
    assert public_of(private.data_keys[0]) == private.metadata.worker.data_public_key


def test_files_hold_no_more_than_their_holder_may_know(made: Made) -> None:
    members = {name: set(json.loads(getattr(made.settings, name).read_text())) for name in FILES}
    public = {"format", "version", "repository", "generation"}
    public |= {"data_public_key", "metadata_public_key", "order_public_key"}
    assert members["public_key_file"] == public | {"hash_key"}
    assert members["metadata_key_file"] == public | {"hash_key", "metadata_secret"}
    assert members["private_key_file"] == public | {"kdf", "log_n", "r", "p", "salt", "sealed"}


def test_production_files_are_stretched_for_long(tmp_path: Path) -> None:
    chosen = key_settings(tmp_path)
    create_repository(MemoryStore(), chosen, encrypted=True, passphrase="x")
    assert json.loads((tmp_path / "private_key_file.json").read_text())["log_n"] == 17


def test_no_secret_shows_in_a_repr(made: Made) -> None:
    private = made.private()
    secrets = {*private.data_keys, private.metadata.private_key, private.metadata.seal_key}
    secrets |= {private.metadata.order_key}
    secrets |= {private.metadata.worker.hash_key, decode_recovery_key(made.recovery_key).master}
    shown = repr(private) + repr(made.created)
    for secret in secrets:
        assert repr(secret)[2:-1] not in shown
        assert secret.hex() not in shown
    assert made.recovery_key not in shown


@pytest.mark.parametrize("name", FILES)
def test_an_existing_key_file_is_refused_before_anything_is_written(tmp_path: Path, name: str) -> None:
    store, chosen = MemoryStore(), key_settings(tmp_path)
    existing = tmp_path / f"{name}.json"
    existing.write_text("precious")
    with pytest.raises(ConfigurationError, match=rf"repository\.{name}.*exists already"):
        create_repository(store, chosen, encrypted=True, passphrase=PASSPHRASE)
    assert existing.read_text() == "precious"
    assert list(tmp_path.iterdir()) == [existing]
    assert store.objects == {}


@pytest.mark.parametrize("name", FILES)
def test_a_missing_setting_is_named(tmp_path: Path, name: str) -> None:
    store = MemoryStore()
    with pytest.raises(ConfigurationError, match=rf"repository\.{name} is missing"):
        create_repository(
            store, key_settings(tmp_path, **{name: None}), encrypted=True, passphrase=PASSPHRASE
        )
    assert list(tmp_path.iterdir()) == []
    assert store.objects == {}


def test_a_folder_that_refuses_the_files_leaves_nothing(tmp_path: Path) -> None:
    store = MemoryStore()
    (tmp_path / "file").write_text("not a folder")
    chosen = key_settings(tmp_path, private_key_file=tmp_path / "file" / "key")
    with pytest.raises(ConfigurationError, match="cannot create"):
        create_repository(store, chosen, encrypted=True, passphrase=PASSPHRASE, scrypt_log_n=QUICK)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert store.objects == {}


@pytest.mark.parametrize("passphrase", [None, ""])
def test_an_encrypted_repository_needs_a_passphrase(tmp_path: Path, passphrase: str | None) -> None:
    with pytest.raises(ConfigurationError, match="passphrase"):
        create_repository(MemoryStore(), key_settings(tmp_path), encrypted=True, passphrase=passphrase)
    assert list(tmp_path.iterdir()) == []


def test_a_repository_is_not_created_twice(made: Made, tmp_path: Path) -> None:
    before = dict(made.store.objects)
    other = tmp_path / "other"
    other.mkdir()
    with pytest.raises(RepositoryExists, match="already"):
        create_repository(made.store, key_settings(other), encrypted=True, passphrase=PASSPHRASE)
    assert made.store.objects == before
    assert list(other.iterdir()) == []


def test_who_loses_the_race_to_create_leaves_no_key_files(tmp_path: Path) -> None:
    class Race(MemoryStore):
        def put_if_absent(self, key: str, data: Buffer) -> None:
            if key == "config":
                self.objects.setdefault(key, b"the other's")
            super().put_if_absent(key, data)

    store = Race()
    with pytest.raises(RepositoryExists):
        create_repository(
            store, key_settings(tmp_path), encrypted=True, passphrase=PASSPHRASE, scrypt_log_n=QUICK
        )
    assert list(tmp_path.iterdir()) == []
    assert store.objects == {"config": b"the other's"}


@pytest.mark.parametrize("encrypted", [True, False])
def test_a_store_that_overwrites_is_refused(tmp_path: Path, encrypted: bool) -> None:
    class Overwriting(MemoryStore):
        def put_if_absent(self, key: str, data: Buffer) -> None:
            self.objects[key] = bytes(data)

    store = Overwriting()
    chosen = key_settings(tmp_path) if encrypted else RepositorySettings(url="file:///unused")
    with pytest.raises(ConfigurationError, match="If-None-Match"):
        create_repository(store, chosen, encrypted=encrypted, passphrase=PASSPHRASE)
    assert store.objects == {}
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_passphrase_is_one_clear_line(made: Made) -> None:
    with pytest.raises(ConfigurationError, match=r"^wrong passphrase[^\n]*$"):
        made.private("correct horze")


def test_a_configured_passphrase_is_not_asked_for(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CBTFLEET_PASSPHRASE", PASSPHRASE)
    assert load_private_keys(made.store, made.settings, no_passphrase) == made.private()
    monkeypatch.delenv("CBTFLEET_PASSPHRASE")
    (tmp_path / "passphrase").write_text(PASSPHRASE + "\n")
    chosen = made.settings.model_copy(update={"passphrase_file": tmp_path / "passphrase"})
    assert load_private_keys(made.store, chosen, no_passphrase) == made.private()
    alone = chosen.model_copy(update={"metadata_key_file": None})
    assert load_metadata_keys(made.store, alone) == made.private().metadata


def test_without_metadata_key_and_passphrase_the_setting_is_named(made: Made) -> None:
    alone = made.settings.model_copy(update={"metadata_key_file": None})
    with pytest.raises(ConfigurationError, match=r"repository\.metadata_key_file is missing"):
        load_metadata_keys(made.store, alone)


@pytest.mark.parametrize(
    ("given", "kind"), [("private_key_file", "private"), ("metadata_key_file", "metadata")]
)
def test_a_worker_refuses_a_key_it_should_not_have(made: Made, given: str, kind: str) -> None:
    wrong = made.settings.model_copy(update={"public_key_file": getattr(made.settings, given)})
    with pytest.raises(ConfigurationError, match=f"is the {kind} key; a worker must not have it"):
        load_worker_keys(made.store, wrong)


def test_keys_of_the_wrong_kind_are_refused_before_a_passphrase_is_asked(made: Made) -> None:
    public = made.settings.public_key_file
    wrong = made.settings.model_copy(update={"metadata_key_file": public, "private_key_file": public})
    with pytest.raises(ConfigurationError, match="another key"):
        load_metadata_keys(made.store, wrong)
    with pytest.raises(ConfigurationError, match="another key"):
        load_private_keys(made.store, wrong, no_passphrase)


@pytest.mark.parametrize("load", LOADERS, ids=["worker", "metadata", "private"])
def test_keys_of_another_repository_are_refused(made: Made, tmp_path: Path, load: Load) -> None:
    other = make(tmp_path / "other")
    with pytest.raises(ConfigUntrue, match="another repository"):
        load(made.store, other.settings)


@pytest.mark.parametrize("load", LOADERS, ids=["worker", "metadata", "private"])
def test_a_bucket_that_says_it_is_no_longer_encrypted_is_refused(made: Made, load: Load) -> None:
    """Whoever can write to the bucket must not be able to make workers write in the clear."""
    plain = MemoryStore()
    create_repository(plain, RepositorySettings(url="file:///unused"), encrypted=False, passphrase=None)
    with pytest.raises(ConfigUntrue, match="someone has changed it"):
        load(plain, made.settings)


def test_an_unencrypted_repository_has_no_key_files() -> None:
    store, chosen = MemoryStore(), RepositorySettings(url="file:///unused")
    created = create_repository(store, chosen, encrypted=False, passphrase=None)
    assert (created.recovery_key, created.files) == (None, ())
    keys = load_private_keys(store, chosen, no_passphrase)
    assert not keys.encrypted
    assert keys.metadata == load_metadata_keys(store, chosen)
    assert keys.metadata.worker == load_worker_keys(store, chosen)


def test_configured_key_files_of_an_unencrypted_repository_say_so(tmp_path: Path) -> None:
    store, chosen = MemoryStore(), key_settings(tmp_path)
    created = create_repository(store, chosen, encrypted=False, passphrase=None)
    assert len(created.files) == 3
    assert not load_worker_keys(store, chosen).encrypted
    assert load_private_keys(store, chosen, no_passphrase).metadata == load_metadata_keys(store, chosen)
    other = MemoryStore()
    create_repository(other, RepositorySettings(url="file:///unused"), encrypted=False, passphrase=None)
    with pytest.raises(ConfigUntrue, match="someone has changed it"):
        load_worker_keys(other, chosen)


def test_an_encrypted_repository_is_not_opened_with_a_file_that_says_no_key(
    made: Made, tmp_path: Path
) -> None:
    chosen = key_settings(tmp_path / "plain")
    create_repository(MemoryStore(), chosen, encrypted=False, passphrase=None)
    for load in LOADERS:
        with pytest.raises(ConfigUntrue):
            load(made.store, chosen)


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"null", b"\xff", b'{"format": "cbtfleet public key"}', b'{"format": "pgp"}', b'"x"'],
)
def test_what_is_no_key_file_is_named_and_not_repeated(made: Made, content: bytes) -> None:
    path = made.settings.public_key_file
    assert path is not None
    path.write_bytes(content)
    with pytest.raises(ConfigurationError, match=r"repository\.public_key_file: .*not a key file"):
        load_worker_keys(made.store, made.settings)
    path.unlink()
    with pytest.raises(ConfigurationError, match="cannot read"):
        load_worker_keys(made.store, made.settings)


@pytest.mark.parametrize(("member", "value"), [("log_n", 40), ("r", 1000), ("p", 0), ("sealed", "AAAA")])
def test_a_private_key_file_that_asks_for_the_impossible_is_refused(
    made: Made, member: str, value: object
) -> None:
    path = made.settings.private_key_file
    assert path is not None
    path.write_text(json.dumps(json.loads(path.read_text()) | {member: value}))
    with pytest.raises(ConfigurationError, match=f"{member} is wrong"):
        made.private()


def test_a_metadata_key_file_that_contradicts_itself_is_refused(made: Made) -> None:
    path = made.settings.metadata_key_file
    assert path is not None
    facts = json.loads(path.read_text())
    path.write_text(json.dumps(facts | {"metadata_secret": facts["hash_key"]}))
    with pytest.raises(ConfigurationError, match="damaged"):
        load_metadata_keys(made.store, made.settings)


def test_the_recovery_key_makes_a_new_private_key_file(made: Made) -> None:
    before = made.private()
    assert made.settings.private_key_file is not None
    made.settings.private_key_file.unlink()
    typed = made.recovery_key.lower().replace("0", "o").replace("1", "l").replace("-", " ")
    path = made.settings.private_key_file
    public = recover_private_key(typed, path, "new one", scrypt_log_n=QUICK)
    assert public == before.metadata.worker
    assert made.private("new one") == before
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with pytest.raises(ConfigurationError, match="exists already"):
        recover_private_key(made.recovery_key, path, "again", scrypt_log_n=QUICK)


def test_every_mistyped_character_of_a_recovery_key_is_noticed() -> None:
    key = RecoveryKey("6a1f3c0e-7f52-4d11-9d3c-0f8a5b2c7e41", 3, bytes(range(32)))
    text = encode_recovery_key(key)
    assert decode_recovery_key(text) == key
    assert [len(group) for group in text.split("-")] == [4] * 21
    for position, digit in enumerate(text):
        if digit != "-":
            for other in {"0", "Z", "7"} - {digit}:
                with pytest.raises(ConfigurationError, match="mistyped"):
                    decode_recovery_key(text[:position] + other + text[position + 1 :])
    for wrong, why in (
        (text[:-1], "has 83"),
        (text + "A", "has 85"),
        ("U" + text[1:], "no U"),
        ("", "has 0"),
    ):
        with pytest.raises(ConfigurationError, match=why):
            decode_recovery_key(wrong)


def test_no_repository_is_said_so() -> None:
    with pytest.raises(RepositoryMissing, match="cbtfleet init"):
        read_config(MemoryStore())


@pytest.mark.parametrize(
    "config",
    [
        b"",
        b"{}",
        b"[]",
        b'{"format": "other", "version": 1}',
        b'{"format": "cbtfleet repository", "version": 1}',
    ],
)
def test_a_damaged_config_is_named(config: bytes) -> None:
    store = MemoryStore()
    store.objects["config"] = config
    with pytest.raises(DamagedObject, match="config is damaged"):
        read_config(store)


def test_a_later_version_is_refused_as_such(made: Made) -> None:
    facts = json.loads(made.store.objects["config"]) | {"version": 2}
    made.store.objects["config"] = json.dumps(facts).encode()
    with pytest.raises(RepositoryMissing, match="version 2"):
        read_config(made.store)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_the_right_to_write_is_named(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(ConfigurationError, match="cannot create the key file"):
        create_repository(
            MemoryStore(), key_settings(tmp_path), encrypted=True, passphrase="x", scrypt_log_n=QUICK
        )
