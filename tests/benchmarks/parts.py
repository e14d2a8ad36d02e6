"""What each part of the path costs alone, in CPU seconds of this process, on the same disk."""

from __future__ import annotations

import hashlib
import http.client
import mmap
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import zstandard
from blake3 import blake3
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from tests.benchmarks.disk_image import BLOCK
from tests.benchmarks.one_stream import cpu_seconds

_CHUNK = 4 << 20
_PACK = 32 << 20


def nbdcopy_cpu(port: int, certificates: Path) -> float:
    """A TLS read of the whole disk over one connection by libnbd's copier, in C; holes are not skipped."""
    uri = f"nbds://localhost:{port}/disk?tls-certificates={certificates}"
    before = os.times()
    quiet = os.open(os.devnull, os.O_WRONLY)
    child = os.posix_spawnp(
        "nbdcopy",
        ["nbdcopy", "--no-extents", "--connections=1", uri, "null:"],
        os.environ,
        file_actions=[(os.POSIX_SPAWN_DUP2, quiet, 1)],
    )
    _, status = os.waitpid(child, 0)
    os.close(quiet)
    if status:
        raise RuntimeError(f"nbdcopy ended with {os.waitstatus_to_exitcode(status)}")
    after = os.times()
    return (after.children_user + after.children_system) - (before.children_user + before.children_system)


def part_costs(image: Path, sink_port: int) -> dict[str, float]:
    """CPU seconds of each part over the whole image; reading the file is not counted."""
    with (
        image.open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped,
        memoryview(mapped) as disk,
    ):
        return _measure(disk, sink_port)


def _measure(disk: memoryview, sink_port: int) -> dict[str, float]:
    costs: dict[str, float] = {}

    def timed(name: str, work: Callable[[], None]) -> None:
        begun = cpu_seconds()
        work()
        costs[name] = costs.get(name, 0.0) + cpu_seconds() - begun

    compressor = zstandard.ZstdCompressor(level=1)
    cipher, hash_key = AESGCM(os.urandom(32)), os.urandom(32)
    sink = http.client.HTTPConnection("127.0.0.1", sink_port)
    for pack in _slices(disk, _PACK):
        chunks = [bytes(chunk) for chunk in _slices(pack, _CHUNK)]
        zero: list[bool] = []
        timed("zero test", lambda chunks=chunks, zero=zero: zero.extend(_zero(chunks)))  # type: ignore[misc]
        blocks = [block for chunk in chunks for block in _slices(memoryview(chunk), BLOCK)]
        full = [block for block, empty in zip(blocks, zero, strict=True) if not empty]
        frames: list[bytes] = []

        def squeeze(full: list[memoryview] = full, frames: list[bytes] = frames) -> None:
            frames.extend(compressor.compress(block) for block in full)

        def digest(full: list[memoryview] = full) -> None:
            for block in full:
                blake3(block, key=hash_key).digest(length=16)

        sealed = memoryview(bytearray(BLOCK + 65536))

        def encrypt(frames: list[bytes] = frames, sealed: memoryview = sealed) -> None:
            for number, frame in enumerate(frames):
                cipher.encrypt_into(
                    number.to_bytes(12, "little"), frame, b"associated data", sealed[: len(frame) + 16]
                )

        timed("zstd, level 1", squeeze)
        timed("BLAKE3", digest)
        timed("AES-256-GCM", encrypt)
        body = b"".join(frames)

        def put(body: bytes = body) -> None:
            sink.request("PUT", "/bench/pack", body)
            sink.getresponse().read()

        timed("PUT, bare http", put)
        timed("SHA-256 of what is put", lambda body=body: hashlib.sha256(body).digest() and None)  # type: ignore[misc]
    sink.close()
    return costs


def _zero(chunks: list[bytes]) -> list[bool]:
    """Block by block: is it all zero?"""
    found: list[bool] = []
    for chunk in chunks:
        words = np.frombuffer(chunk, np.uint64).reshape(-1, BLOCK // 8)
        found += (words.max(axis=1) == 0).tolist()
    return found


def _slices(data: memoryview, size: int) -> Iterator[memoryview]:
    for start in range(0, len(data), size):
        yield data[start : start + size]
