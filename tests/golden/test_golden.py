"""Every version reads the golden repositories; so does a reader that was made from docs/format.md alone."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from tests.golden.format_reader import Reader
from workers.extents import BATCH_BLOCKS
from workers.repository import (
    PrivateKeys,
    Repository,
    Store,
    load_metadata_keys,
    load_private_keys,
    load_worker_keys,
    open_store,
    recover_private_key,
    restore_disk,
    verify_points,
)
from workers.settings import RepositorySettings

GOLDEN = Path(__file__).parent / "v1"
EXPECTED: dict[str, Any] = json.loads((GOLDEN / "expected.json").read_text())
KINDS = ("encrypted", "unencrypted")


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def settings(kind: str) -> RepositorySettings:
    files = {f"{key}_key_file": GOLDEN / "keys" / f"{key}.json" for key in ("public", "metadata", "private")}
    return RepositorySettings.model_validate(
        {"url": f"file://{GOLDEN / kind}"} | (files if kind == "encrypted" else {})
    )


@pytest.fixture
def store(settings: RepositorySettings) -> Store:
    return open_store(settings)


@pytest.fixture
def keys(store: Store, settings: RepositorySettings) -> PrivateKeys:
    return load_private_keys(store, settings, lambda: EXPECTED["passphrase"])


def reader_of(kind: str) -> Reader:
    private = GOLDEN / "keys" / "private.json" if kind == "encrypted" else None
    return Reader(GOLDEN / kind, private, EXPECTED["passphrase"])


def test_every_disk_of_every_point_is_restored(
    kind: str, store: Store, keys: PrivateKeys, tmp_path: Path
) -> None:
    repository = Repository.open(store, keys)
    assert len(list(repository.points())) == 5
    for number, expected in enumerate(EXPECTED[kind]["disks"]):
        point = repository.find_point(expected["point"])
        (disk,) = [disk for disk in point.disks if disk.vdi == expected["vdi"]]
        assert (disk.virtual_size, len(disk.layers())) == (expected["virtual_size"], expected["layers"])
        target = tmp_path / str(number)
        restore_disk(store, keys, disk, target, threads=2)
        assert hashlib.sha256(target.read_bytes()).hexdigest() == expected["sha256"]


def test_verify_finds_no_damage(store: Store, keys: PrivateKeys) -> None:
    verified = verify_points(store, keys, Repository.open(store, keys).points(), threads=2)
    assert verified.damaged == []
    assert verified.checked_frames == 12


def test_all_keys_plans_and_runs_are_read(
    kind: str, store: Store, settings: RepositorySettings, keys: PrivateKeys
) -> None:
    assert load_worker_keys(store, settings) == keys.metadata.worker
    assert load_metadata_keys(store, settings) == keys.metadata
    repository = Repository.open(store, keys)
    runs = list(repository.ended_runs())
    assert [json.loads(repository.result(run) or b"")["status"] for run in runs] == ["succeeded"] * 5
    plan = repository.plan(runs[1], EXPECTED[kind]["disks"][0]["vdi"])
    assert plan.batch(0).tolist() == [1, 2, 600]


def test_the_recovery_key_still_works(tmp_path: Path) -> None:
    url = f"file://{GOLDEN / 'encrypted'}"
    settings = RepositorySettings(url=url, private_key_file=tmp_path / "recovered")
    store = open_store(settings)
    recovery_key = EXPECTED["encrypted"]["recovery_key"]
    recover_private_key(recovery_key, tmp_path / "recovered", "new", scrypt_log_n=10)
    recovered = load_private_keys(store, settings, lambda: "new")
    before = settings.model_copy(update={"private_key_file": GOLDEN / "keys" / "private.json"})
    assert recovered == load_private_keys(store, before, lambda: EXPECTED["passphrase"])


def test_a_reader_made_from_the_page_alone_restores_every_disk(kind: str) -> None:
    reader = reader_of(kind)
    for expected in EXPECTED[kind]["disks"]:
        content = reader.restore(expected["point"], expected["vdi"])
        assert hashlib.sha256(content).hexdigest() == expected["sha256"]


def test_that_reader_works_with_the_recovery_key() -> None:
    expected = EXPECTED["encrypted"]
    reader = Reader(GOLDEN / "encrypted", None, recovery=expected["recovery_key"])
    disk = expected["disks"][0]
    assert hashlib.sha256(reader.restore(disk["point"], disk["vdi"])).hexdigest() == disk["sha256"]


def test_that_reader_finds_in_packs_what_segments_say_of_them(kind: str) -> None:
    reader = reader_of(kind)
    packs = {
        key: reader.pack_index(key)
        for path in reader.folder.glob("packs/*/*/*")
        for key in [str(path.relative_to(reader.folder))]
    }
    assert sum(map(len, packs.values())) == 700 + 16 + 3 + 3 + 2
    assert max(map(len, packs.values())) == BATCH_BLOCKS
    found = 0
    for path in reader.folder.glob("segments/*/*/*"):
        segment = reader.segment(str(path.relative_to(reader.folder)))
        for block, (key, origin, offset, length, kind_, digest, sealed_as) in segment.items():
            assert sealed_as == block
            if length:
                assert (origin, block, offset, length, kind_, digest) in [row[1:] for row in packs[key]]
            assert origin == packs[key][0][1]
            found += 1
    assert found > 12


def test_the_newest_supplement_counts(kind: str, store: Store, keys: PrivateKeys) -> None:
    first, disk = EXPECTED[kind]["disks"][0]["point"], EXPECTED[kind]["disks"][0]["vdi"]
    moved = f"segments/{disk}/20261122T060000Z-moved/00000000"
    assert [each["key"] for each in reader_of(kind).point(first)["disks"][0]["segments"]] == [moved]
    ours = Repository.open(store, keys).find_point(first).disks[0]
    assert [segment.key for segment in ours.segments] == [moved]


def test_that_reader_reads_bitmaps_too(kind: str) -> None:
    reader = reader_of(kind)
    disk, (path, *_) = EXPECTED[kind]["disks"][0], sorted(reader.folder.glob("bitmaps/7*/*"))
    (section,) = reader.envelope(str(path.relative_to(reader.folder)))
    assert int.from_bytes(section[:8], "little") == disk["virtual_size"]
    assert section[8:] == b"\xff" * 87 + b"\xf0"
