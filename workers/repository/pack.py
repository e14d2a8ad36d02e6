"""Writing a pack: the blocks of one batch, compressed, sealed, indexed; one object for one PUT."""

from __future__ import annotations

import os
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import zstandard
from blake3 import blake3
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from workers.extents import BATCH_BLOCKS, BLOCK_SIZE, MAX_DISK_SIZE, block_count
from workers.repository.compression import CompressionError, compress, decompress
from workers.repository.errors import RepositoryError, SealCheckFailed
from workers.repository.frame import (
    HASH_SIZE,
    Kind,
    frame_associated,
    frame_nonce,
)
from workers.repository.keys import NO_WRAPPED_KEY, SECRET_SIZE, WorkerKeys, wrap
from workers.repository.naming import PackName, checked_name
from workers.repository.origin import Origin
from workers.repository.pack_layout import (
    HEADER,
    INDEX_COLUMNS,
    INDEX_HEADER,
    PACK_CAPACITY,
    Footer,
    Group,
    header,
    index_associated,
    index_key_info,
)
from workers.repository.sealing import TAG_SIZE, mark, seal
from workers.repository.store import Buffer


@dataclass(frozen=True)
class Pack:
    """A finished pack: put `data` under `key`. `plain_bytes` counts holes too."""

    key: str
    data: memoryview = field(repr=False)
    blocks: int
    holes: int
    plain_bytes: int
    hash: bytes = field(repr=False)
    """Of `data`, as in its name."""


class PackWriter:
    """Takes the blocks of one batch in ascending order and makes its pack.

    For one thread at a time, but any thread: the time goes into zstd and BLAKE3, which release the GIL, and
    4 µs a block into AES. Memory: the pack itself, at most 32 MiB and a little, touched only as it fills.
    """

    def __init__(
        self,
        keys: WorkerKeys,
        *,
        disk: str,
        run: str,
        batch: int,
        snapshot: str,
        virtual_size: int,
        level: int = 1,
        check: bool = False,
        known: bytes = b"",
    ) -> None:
        """`snapshot` is the uuid of the VDI snapshot that the blocks are read from.

        `level` is zstd's; with `check`, every frame is opened again and compared with its block.

        `known` is what `KnownHashes` gives for the batch: a block that has the hash at its place there is
        noted as unchanged, and has no frame.
        """
        if not 0 < virtual_size <= MAX_DISK_SIZE:
            raise RepositoryError(f"a disk of {virtual_size} bytes cannot have blocks to back up")
        self._keys = keys
        self._place = (keys.repository, checked_name(disk), checked_name(run), batch)
        self._virtual_size = virtual_size
        self._blocks = block_count(virtual_size)
        self._zstd = zstandard.ZstdCompressor(level=level)
        self._check = zstandard.ZstdDecompressor() if check else None
        self._known = known
        self._data_key = os.urandom(SECRET_SIZE)
        self._cipher = AESGCM(self._data_key) if keys.encrypted else None
        self._origin = Origin(disk, run, batch, checked_name(snapshot), keys.generation, NO_WRAPPED_KEY)
        self._prefix = self._origin.frame_prefix(keys.repository)
        self._buffer = np.empty(PACK_CAPACITY, np.uint8).data
        self._buffer[: HEADER.size] = header(keys.encrypted)
        self._end = HEADER.size
        self._numbers: list[npt.NDArray[np.int64]] = []
        self._lengths: list[int] = []
        self._kinds = bytearray()
        self._hashes: list[bytes] = []
        self._last = -1
        self._plain_bytes = 0

    def add(self, blocks: npt.NDArray[np.int64], plain: memoryview) -> None:
        """Adds blocks; `plain` is their bytes, one after the other, the disk's last block at its own length.

        Raises RepositoryError when the blocks do not ascend, do not fit the disk, the batch or `plain`.
        """
        if not len(blocks):
            return
        self._accept(blocks, plain)
        starts = np.arange(len(blocks), dtype=np.int64) * BLOCK_SIZE
        zero = _zero_blocks(plain)
        for number, start, hole in zip(blocks.tolist(), starts.tolist(), zero.tolist(), strict=True):
            if hole:
                self._note(Kind.HOLE, 0, bytes(HASH_SIZE))
            else:
                self._add_frame(number, plain[start : start + BLOCK_SIZE])
        self._numbers.append(blocks)
        self._last = int(blocks[-1])
        self._plain_bytes += len(plain)

    def finish(self) -> Pack:
        """The whole pack. The writer must not be used afterwards."""
        numbers = np.concatenate(self._numbers) if self._numbers else np.empty(0, np.int64)
        columns = [np.asarray(numbers), np.asarray(self._lengths), np.frombuffer(self._kinds, np.uint8)]
        group = Group(self._wrapped(), self._virtual_size, len(numbers))
        plain = INDEX_HEADER.pack(1, len(numbers)) + group.encode()
        plain += b"".join(
            column.astype(kind).tobytes() for column, (_, kind, _) in zip(columns, INDEX_COLUMNS, strict=True)
        )
        self._append_index(compress(plain + b"".join(self._hashes)))
        data = self._buffer[: self._end]
        _, disk, run, batch = self._place
        name = PackName(disk, run, batch, blake3(data).digest(length=HASH_SIZE))
        return Pack(name.key, data, len(numbers), self._kinds.count(Kind.HOLE), self._plain_bytes, name.hash)

    def _accept(self, blocks: npt.NDArray[np.int64], plain: memoryview) -> None:
        ascending = int(blocks[0]) > self._last and bool(np.all(np.diff(blocks) > 0))
        if not ascending or int(blocks[-1]) >= self._blocks:
            raise RepositoryError("a pack's blocks must ascend and lie within the disk")
        if len(self._lengths) + len(blocks) > BATCH_BLOCKS:
            raise RepositoryError(f"a pack has at most {BATCH_BLOCKS} blocks")
        end = min((int(blocks[-1]) + 1) * BLOCK_SIZE, self._virtual_size)
        wanted = (len(blocks) - 1) * BLOCK_SIZE + end - int(blocks[-1]) * BLOCK_SIZE
        if len(plain) != wanted:
            raise RepositoryError(f"{len(blocks)} blocks have {wanted} bytes here, {len(plain)} were given")

    def _note(self, kind: Kind, length: int, block_hash: bytes) -> None:
        self._kinds.append(kind)
        self._lengths.append(length)
        self._hashes.append(block_hash)

    def _add_frame(self, block: int, plain: memoryview) -> None:
        block_hash = blake3(plain, key=self._keys.hash_key).digest(length=HASH_SIZE)
        place = len(self._hashes) * HASH_SIZE
        if self._known[place : place + HASH_SIZE] == block_hash:
            self._note(Kind.UNCHANGED, 0, block_hash)
            return
        text: Buffer = self._zstd.compress(plain)
        kind = Kind.ZSTD
        if len(text) >= len(plain):
            text, kind = plain, Kind.RAW
        length = len(text)
        if self._cipher is None:
            self._buffer[self._end : self._end + length] = text
        else:
            length += TAG_SIZE
            frame = self._buffer[self._end : self._end + length]
            self._cipher.encrypt_into(frame_nonce(block), text, frame_associated(self._prefix, block), frame)
        if self._check is not None:
            self._compare(block, kind, self._buffer[self._end : self._end + length], plain)
        self._end += length
        self._note(kind, length, block_hash)

    def _compare(self, block: int, kind: Kind, frame: memoryview, plain: memoryview) -> None:
        text: Buffer = frame
        try:
            if self._cipher is not None:
                text = self._cipher.decrypt(frame_nonce(block), frame, frame_associated(self._prefix, block))
            again = text if kind == Kind.RAW else decompress(text, limit=BLOCK_SIZE, decompressor=self._check)
        except (InvalidTag, CompressionError) as error:
            raise SealCheckFailed(block, "does not open again") from error
        if bytes(again) != bytes(plain):  # comparing memoryviews would go byte by byte
            raise SealCheckFailed(block, "gives other bytes than were read")

    def _wrapped(self) -> Origin:
        if not self._keys.encrypted:
            return self._origin
        info = self._origin.data_key_info(self._keys.repository)
        return self._origin._replace(data_key=wrap(self._data_key, self._keys.data_public_key, info))

    def _append_index(self, compressed: bytes) -> None:
        keys, place = self._keys, self._place
        length = len(compressed) + TAG_SIZE
        index_key = os.urandom(SECRET_SIZE)
        index_wrapped = NO_WRAPPED_KEY
        if keys.encrypted:
            index_wrapped = wrap(index_key, keys.metadata_public_key, index_key_info(*place))
        footer = Footer(index_wrapped, self._end, length, keys.encrypted)
        associated = index_associated(*place, footer.facts)
        sealed = (
            seal(index_key, 0, compressed, associated)
            if keys.encrypted
            else mark(keys.hash_key, 0, compressed, associated)
        )
        for part in (sealed, footer.encode()):
            self._buffer[self._end : self._end + len(part)] = part
            self._end += len(part)


def _zero_blocks(plain: memoryview) -> npt.NDArray[np.bool_]:
    """Which blocks of `plain` are all zero; the last one may be short.

    The largest 64-bit word of each block decides: the reduction that numpy does fastest.
    """
    whole = len(plain) // BLOCK_SIZE
    words = np.frombuffer(plain[: whole * BLOCK_SIZE], np.uint64).reshape(whole, BLOCK_SIZE // 8)
    zero = words.max(axis=1, initial=0) == 0
    if len(plain) % BLOCK_SIZE:
        tail = np.frombuffer(plain[whole * BLOCK_SIZE :], np.uint8)
        zero = np.append(zero, not tail.any())
    return np.asarray(zero, np.bool_)
