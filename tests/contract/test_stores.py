"""What every store promises, asked of every store.

The kind `s3-foreign` is an S3 server of the tester's, named by TEST_S3_ENDPOINT and the usual AWS_* variables
and skipped without; `tests/ceph-radosgw.sh` starts one. `s3-foreign-virtual` is the same server, with the
bucket in the host's name, which must resolve.
"""

from __future__ import annotations

import random
import re
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from workers.repository.open import open_store
from workers.repository.store import (
    AccessDenied,
    BucketMissing,
    ObjectExists,
    ObjectInfo,
    ObjectMissing,
    ObjectTooLarge,
    ObjectTruncated,
    Store,
    honours_put_if_absent,
)
from workers.settings import RepositorySettings

KINDS = ["s3", "s3-prefix", "s3-foreign", "directory"]
LARGE = 1 << 30

ATOMIC = ["s3-foreign", "directory"]
"""Not moto's server: it looks and then writes, so two of its threads can both win."""


@pytest.fixture(params=KINDS)
def settings(request: pytest.FixtureRequest) -> RepositorySettings:
    if request.param == "directory":
        folder: Path = request.getfixturevalue("tmp_path") / "a folder"
        folder.mkdir()
        return RepositorySettings(url=f"file://{folder}")
    if request.param.startswith("s3-foreign"):
        return foreign_settings(request, virtual=request.param.endswith("virtual"))
    bucket = request.getfixturevalue("s3_bucket")
    path = "/some/prefix/" if request.param == "s3-prefix" else ""
    return RepositorySettings(url=f"s3://{bucket}{path}", endpoint_url=request.getfixturevalue("s3_endpoint"))


def foreign_settings(request: pytest.FixtureRequest, virtual: bool) -> RepositorySettings:
    endpoint = request.getfixturevalue("foreign_s3_endpoint")
    bucket = request.getfixturevalue("foreign_s3_bucket")
    if virtual:
        host = f"{bucket}.{urlsplit(endpoint).hostname}"
        try:
            socket.getaddrinfo(host, None)
        except OSError:
            pytest.skip(f"{host} does not resolve")
    return RepositorySettings(
        url=f"s3://{bucket}/prod", endpoint_url=endpoint, addressing="virtual" if virtual else "auto"
    )


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
            assert store.get(key, LARGE) == data
            assert store.head(key) == ObjectInfo(key, size)


def test_a_whole_pack_passes(store: Store) -> None:
    data = bytearray(random.Random(1).randbytes(33 << 20))
    store.put_if_absent("pack", memoryview(data))
    assert store.get("pack", LARGE) == data
    assert store.get_range("pack", (33 << 20) - 5, 5) == data[-5:]


def test_a_view_into_a_larger_buffer_puts_only_the_view(store: Store) -> None:
    store.put_if_absent("part", memoryview(b"0123456789")[2:5])
    assert store.get("part", LARGE) == b"234"


def test_nothing_is_overwritten(store: Store) -> None:
    store.put_if_absent("config", b"first")
    for data in (b"second", b"first"):
        with pytest.raises(ObjectExists, match="config"):
            store.put_if_absent("config", data)
    assert store.get("config", LARGE) == b"first"


@pytest.mark.parametrize("settings", ATOMIC, indirect=True)
@pytest.mark.parametrize("size", [1000, 300_000])
def test_of_many_who_put_one_wins(store: Store, size: int) -> None:
    threads, rounds = 8, 10
    outcomes: list[list[bytes]] = [[] for _ in range(rounds)]
    start = threading.Barrier(threads)

    def put(data: bytes) -> None:
        for number in range(rounds):
            start.wait()
            try:
                store.put_if_absent(f"runs/{number}/open", data)
                outcomes[number].append(data)
            except ObjectExists:
                continue

    racers = [threading.Thread(target=put, args=(bytes([number]) * size,)) for number in range(threads)]
    for racer in racers:
        racer.start()
    for racer in racers:
        racer.join()
    for number, winners in enumerate(outcomes):
        assert winners == [store.get(f"runs/{number}/open", LARGE)]


@pytest.mark.parametrize("size", [0, 1, 300_000])
def test_an_object_larger_than_its_limit_is_not_read(store: Store, size: int) -> None:
    store.put_if_absent("points/one", bytes(size))
    assert store.get("points/one", size) == bytes(size)
    if size:
        with pytest.raises(ObjectTooLarge, match=f"points/one has {size} bytes, {size - 1} at most"):
            store.get("points/one", size - 1)
    assert store.get("points/one", size) == bytes(size)  # the connection is as good as before


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
        for ask in (lambda key: store.get(key, LARGE), store.head, lambda key: store.get_range(key, 0, 1)):
            with pytest.raises(ObjectMissing, match=f"{missing} is not in the store"):
                ask(missing)


def test_delete_twice_is_fine(store: Store) -> None:
    store.put_if_absent("a/b", b"1")
    store.delete("a/b")
    store.delete("a/b")
    store.delete("never/was")
    assert list(store.list("")) == []
    store.put_if_absent("a/b", b"2")
    assert store.get("a/b", LARGE) == b"2"


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


@pytest.mark.parametrize("settings", ["s3-foreign", "directory"], indirect=True)
def test_a_long_listing_is_complete_and_in_order(store: Store) -> None:
    """Longer than a page of S3, and of names that a server may sort in another way."""
    names = [f"packs/{letter}{number:x}-z/{number}" for letter in "aB_-0" for number in range(221)]
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda name: store.put_if_absent(name, b""), names))
    assert [info.key for info in store.list("packs/")] == sorted(names)


def test_what_is_no_key_is_refused(store: Store) -> None:
    for key in ["", "/a", "a/", "a//b", "..", "a/../b", ".hidden", "a/.tmp-1", "ä", "a b", "a\n", "a" * 513]:
        for ask in (
            lambda key: store.get(key, LARGE),
            store.head,
            store.delete,
            lambda key: store.put_if_absent(key, b""),
        ):
            with pytest.raises(ValueError, match="not an object key"):
                ask(key)
    for prefix in ["/", "../", "a//", ".", "a/."]:
        with pytest.raises(ValueError, match="not the beginning"):
            list(store.list(prefix))


@pytest.mark.parametrize("settings", ["s3-foreign-virtual"], indirect=True)
def test_a_bucket_named_in_the_host_is_the_same(store: Store) -> None:
    store.put_if_absent("a/b", b"0123456789")
    with pytest.raises(ObjectExists):
        store.put_if_absent("a/b", b"second")
    assert store.get("a/b", LARGE) == b"0123456789"
    assert store.get_range("a/b", 2, 3) == b"234"
    assert [store.head("a/b")] == list(store.list("a"))
    store.delete("a/b")
    assert list(store.list("")) == []


def test_stores_that_never_overwrite_are_recognised(store: Store) -> None:
    assert honours_put_if_absent(store)
    assert list(store.list("")) == []


@pytest.mark.parametrize("kind", ["s3", "s3-foreign", "directory"])
def test_a_missing_bucket_is_said(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    if kind == "directory":
        url, endpoint = f"file://{tmp_path}/absent", None
    elif kind == "s3-foreign":
        url, endpoint = "s3://absent-bucket/p", request.getfixturevalue("foreign_s3_endpoint")
    else:
        request.getfixturevalue("s3_bucket")
        url, endpoint = "s3://absent-bucket/p", request.getfixturevalue("s3_endpoint")
    with pytest.raises(BucketMissing, match=r"absent.*(create|mount)"):
        open_store(RepositorySettings(url=url, endpoint_url=endpoint)).get("config", LARGE)


@pytest.mark.parametrize(
    ("variable", "says"),
    [("AWS_ACCESS_KEY_ID", "InvalidAccessKeyId"), ("AWS_SECRET_ACCESS_KEY", "SignatureDoesNotMatch")],
)
def test_wrong_credentials_of_a_foreign_store_are_one_line(
    variable: str,
    says: str,
    foreign_s3_endpoint: str,
    foreign_s3_bucket: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(variable, "NOTTHERIGHTONE")
    store = open_store(RepositorySettings(url=f"s3://{foreign_s3_bucket}", endpoint_url=foreign_s3_endpoint))
    asked = (
        lambda key: store.get(key, LARGE),
        store.head,
        store.delete,
        lambda key: store.put_if_absent(key, b"1"),
        lambda key: [*store.list(key)],
    )
    line = rf"bucket {foreign_s3_bucket} at [^ ]* does not accept the credentials \({says}\); check them"
    for ask in asked:
        with pytest.raises(AccessDenied) as caught:
            ask("config")
        assert re.fullmatch(line, str(caught.value))
    store.close()
