"""Sizes that an object claims cost no memory: neither its own nor those written in it."""

from __future__ import annotations

import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.damage.bucket import FULL, OPEN, Bucket, Damaged, outcome
from tests.damage.judge import kind_of
from tests.repository_machine import DISK, PLAIN, VM, MemoryStore
from workers.repository import DamagedObject, Repository, Store
from workers.repository.compression import compress
from workers.repository.directory_store import DirectoryStore
from workers.repository.naming import binding, bitmap_key, open_run_key, point_id, result_key
from workers.repository.sealing import mark
from workers.repository.segment import open_segment

MIB = 1 << 20
FEW = 12 * MIB
"""Peak of what a reader may allocate; reading the undamaged repository takes less."""


def claiming(size: int) -> bytes:
    """A zstd frame that claims `size` bytes of content."""
    return bytes.fromhex("28b52ffde0") + struct.pack("<Q", size) + compress(b"{}")[6:]


def crafted(key: str, *sections: tuple[int, bytes]) -> bytes:
    """A well sealed object of an unencrypted repository; each section is the length it says and its zstd."""
    header = struct.pack("<8sHHI32s", b"CBTFMETA", 1, 0, len(sections), bytes(32))
    for plain, text in sections:
        header += struct.pack("<QQ", plain, len(text) + 16)
    associated = binding("object", PLAIN.repository, key) + b"\0" + header
    hash_key = PLAIN.metadata.worker.hash_key
    return header + b"".join(
        mark(hash_key, number, text, associated) for number, (_, text) in enumerate(sections)
    )


def peak_of(reading: Callable[[Store], object], store: Store) -> tuple[object, int]:
    tracemalloc.start()
    try:
        return outcome(reading, store), tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_an_object_of_a_terabyte_is_not_read(bucket: Bucket, tmp_path: Path) -> None:
    """In a folder: sparse files."""
    folder, store = tmp_path / "store", DirectoryStore(tmp_path / "store")
    for key, data in bucket.objects.items():
        path = folder / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    readings, said = bucket.readings(), set()
    for key, data in bucket.objects.items():
        with (folder / key).open("r+b") as file:
            file.truncate(1 << 40)
        for name in readings_of(key, readings):
            found, peak = peak_of(readings[name], store)
            assert peak < FEW, (key, name, peak)
            if isinstance(found, Damaged):
                assert key in found.text
                said.add(kind_of(key))
        with (folder / key).open("r+b") as file:
            file.truncate(len(data))
    assert said == {kind_of(key) for key in bucket.objects} - {"known"}


def readings_of(key: str, readings: dict[str, object]) -> list[str]:
    """Some that ask for objects of this kind: all of them would take a minute."""
    first = {
        "config": "config", "points": "the list", "supplements": "the list", "metadata": "metadata",
        "bitmaps": "plan", "packs": "index",
        "segments": "disk", "runs/open": "the open", "runs/vms": "a VM's", "runs/result": "result",
        "known": "hashes",
    }[kind_of(key)]  # fmt: skip
    return [name for name in readings if name.startswith(first)]


@pytest.mark.parametrize(
    "sections",
    [
        pytest.param([(2, claiming(1 << 42))], id="zstd claims terabytes"),
        pytest.param([(1 << 42, claiming(1 << 42))], id="header and zstd claim terabytes"),
        pytest.param([(1 << 63, compress(b"{}"))], id="header claims exabytes"),
        pytest.param([(3, compress(b"{}"))], id="header claims one more"),
        pytest.param([(0, compress(b"{}"))], id="header claims nothing"),
        pytest.param([(2, compress(b"{}") + b"\0")], id="bytes behind"),
        pytest.param([(0, compress(b"") + b"\0")], id="bytes behind nothing"),
        pytest.param([(0, bytes.fromhex("502a4d1800000000"))], id="a skippable frame"),
        pytest.param([(2, compress(b"{}")), (2, compress(b"{}"))], id="two sections"),
    ],
)
def test_a_size_claimed_behind_a_valid_seal_is_damage(sections: list[tuple[int, bytes]]) -> None:
    store = MemoryStore()
    repository = Repository.open(store, PLAIN)
    point = f"points/{VM}/20261122T000000Z-{point_id(FULL, VM)}"
    kinds: dict[str, Callable[[], object]] = {
        bitmap_key(DISK, FULL): lambda: repository.plan(FULL, DISK),
        open_run_key(OPEN): lambda: repository.open_record(OPEN),
        result_key(FULL): lambda: repository.result(FULL),
        point: lambda: list(repository.points()),
    }
    for key, read in kinds.items():
        store.objects = {key: crafted(key, *sections)}
        with pytest.raises(DamagedObject, match=key):
            read()


@pytest.mark.parametrize("claimed", [1, 1 << 21, (1 << 32) - 1])
def test_a_segment_that_claims_rows_is_damaged(claimed: int) -> None:
    key = f"segments/{DISK}/run/00000000"
    no_rows, no_entries = struct.pack("<II", 0, 0), struct.pack("<I", 0)
    for table, entries in (
        (struct.pack("<II", claimed, 0), no_entries),
        (struct.pack("<II", 0, claimed), no_entries),
        (no_rows, struct.pack("<I", claimed)),
    ):
        data = crafted(key, (len(table), compress(table)), (len(entries), compress(entries)))
        with pytest.raises(DamagedObject, match=key):
            open_segment(PLAIN.metadata, key, data, 1 << 40)
