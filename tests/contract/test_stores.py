"""What every store promises, asked of every store."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from workers.repository.open import open_store
from workers.repository.store import (
    BucketMissing,
    ObjectExists,
    ObjectInfo,
    ObjectMissing,
    ObjectTruncated,
    Store,
    honours_put_if_absent,
)
from workers.settings import RepositorySettings

KINDS = ["s3", "s3-prefix", "directory"]


@pytest.fixture(params=KINDS)
def settings(request: pytest.FixtureRequest) -> RepositorySettings:
    if request.param == "directory":
        folder: Path = request.getfixturevalue("tmp_path") / "a folder"
        folder.mkdir()
        return RepositorySettings(url=f"file://{folder}")
    bucket = request.getfixturevalue("s3_bucket")
    path = "/some/prefix/" if request.param == "s3-prefix" else ""
    return RepositorySettings(url=f"s3://{bucket}{path}", endpoint_url=request.getfixturevalue("s3_endpoint"))


@pytest.fixture
def store(settings: RepositorySettings) -> Iterator[Store]:
    opened = open_store(settings)
    yield opened
    opened.close()


def test_what_was_put_is_got(store: Store) -> None:
    for kind in (bytes, bytearray, memoryview):
        for size in (0, 1, 300_000):
            data, key = random.Random(size).randbytes(size), f"packs/disk/{kind.__name__}/{size}"
            store.put_if_absent(key, kind(data))
            assert store.get(key) == data
            assert store.head(key) == ObjectInfo(key, size)


def test_a_whole_pack_passes(store: Store) -> None:
    data = bytearray(random.Random(1).randbytes(33 << 20))
    store.put_if_absent("pack", memoryview(data))
    assert store.get("pack") == data
    assert store.get_range("pack", (33 << 20) - 5, 5) == data[-5:]


def test_a_view_into_a_larger_buffer_puts_only_the_view(store: Store) -> None:
    store.put_if_absent("part", memoryview(b"0123456789")[2:5])
    assert store.get("part") == b"234"


def test_nothing_is_overwritten(store: Store) -> None:
    store.put_if_absent("config", b"first")
    for data in (b"second", b"first"):
        with pytest.raises(ObjectExists, match="config"):
            store.put_if_absent("config", data)
    assert store.get("config") == b"first"


@pytest.mark.parametrize("settings", ["directory"], indirect=True)
def test_of_many_who_put_one_wins(store: Store) -> None:
    """Not asked of moto's server: it looks and then writes, so two of its threads can both win."""
    outcomes: list[bytes | None] = []
    start = threading.Barrier(6)

    def put(data: bytes) -> None:
        start.wait()
        try:
            store.put_if_absent("runs/a/open", data)
            outcomes.append(data)
        except ObjectExists:
            outcomes.append(None)

    threads = [threading.Thread(target=put, args=(bytes([number]) * 1000,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    winners = [outcome for outcome in outcomes if outcome is not None]
    assert len(outcomes) == 6
    assert winners == [store.get("runs/a/open")]


def test_ranges_are_exact(store: Store) -> None:
    store.put_if_absent("ten", b"0123456789")
    for start, length in [(0, 10), (0, 1), (9, 1), (3, 4), (5, 0)]:
        assert store.get_range("ten", start, length) == b"0123456789"[start : start + length]
    assert store.get_range("ten", 99, 0) == b""


def test_a_range_beyond_the_end_is_a_truncated_object(store: Store) -> None:
    store.put_if_absent("ten", b"0123456789")
    for start, length in [(0, 11), (9, 2), (10, 1), (5000, 5000), (1 << 40, 1)]:
        with pytest.raises(ObjectTruncated, match=f"ten is truncated.* {start + length} bytes"):
            store.get_range("ten", start, length)


def test_what_is_missing_is_said(store: Store) -> None:
    store.put_if_absent("packs/one", b"1")
    for missing in ("packs/two", "packs", "other/three", "packs/one/more"):
        for ask in (store.get, store.head, lambda key: store.get_range(key, 0, 1)):
            with pytest.raises(ObjectMissing, match=f"{missing} is not in the store"):
                ask(missing)


def test_delete_twice_is_fine(store: Store) -> None:
    store.put_if_absent("a/b", b"1")
    store.delete("a/b")
    store.delete("a/b")
    store.delete("never/was")
    assert list(store.list("")) == []
    store.put_if_absent("a/b", b"2")
    assert store.get("a/b") == b"2"


def test_listing_is_by_plain_prefix_and_in_the_order_of_keys(store: Store) -> None:
    keys = ["a", "a-b/x", "a.c", "ab/x", "ab/y/z", "ab/y-z", "abc", "b/a", "B", "_", "0/1"]
    for size, key in enumerate(keys):
        store.put_if_absent(key, bytes(size))
    sizes = {key: size for size, key in enumerate(keys)}
    for prefix in [
        "",
        "a",
        "ab",
        "ab/",
        "ab/y",
        "ab/y/",
        "ab/y/z",
        "ab/y/z/",
        "a-",
        "b",
        "nothing",
        "b/b",
        "a/",
    ]:
        expected = [ObjectInfo(key, sizes[key]) for key in sorted(keys) if key.startswith(prefix)]
        assert list(store.list(prefix)) == expected, prefix


def test_what_is_no_key_is_refused(store: Store) -> None:
    for key in ["", "/a", "a/", "a//b", "..", "a/../b", ".hidden", "a/.tmp-1", "ä", "a b", "a\n", "a" * 513]:
        for ask in (store.get, store.head, store.delete, lambda key: store.put_if_absent(key, b"")):
            with pytest.raises(ValueError, match="not an object key"):
                ask(key)
    for prefix in ["/", "../", "a//", ".", "a/."]:
        with pytest.raises(ValueError, match="not the beginning"):
            list(store.list(prefix))


def test_stores_that_never_overwrite_are_recognised(store: Store) -> None:
    assert honours_put_if_absent(store)
    assert list(store.list("")) == []


@pytest.mark.parametrize("kind", KINDS)
def test_a_missing_bucket_is_said(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    if kind == "directory":
        url, endpoint = f"file://{tmp_path}/absent", None
    else:
        request.getfixturevalue("s3_bucket")
        url, endpoint = "s3://absent-bucket/p", request.getfixturevalue("s3_endpoint")
    with pytest.raises(BucketMissing, match=r"absent.*(create|mount)"):
        open_store(RepositorySettings(url=url, endpoint_url=endpoint)).get("config")
