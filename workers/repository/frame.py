"""Frames: one block each, compressed and sealed alone, so that any block can be restored alone."""

from __future__ import annotations

from enum import IntEnum

import zstandard
from blake3 import blake3
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from workers.extents import BLOCK_SIZE
from workers.repository.compression import CompressionError, decompress
from workers.repository.errors import DamagedObject
from workers.repository.keys import PrivateKeys, WrongKey, unwrap
from workers.repository.origin import Origin
from workers.repository.sealing import TAG_SIZE
from workers.repository.store import Buffer

HASH_SIZE = 16
MAX_FRAME = BLOCK_SIZE + TAG_SIZE
"""Bytes of the longest frame: a block that did not compress, and its tag."""


class Kind(IntEnum):
    """How a block is stored; an index entry's `flags`. UNCHANGED is in packs' indexes only: the block is the
    one of this hash that the restore point has which the run compares with."""

    RAW = 0
    ZSTD = 1
    HOLE = 2
    UNCHANGED = 3


def frame_associated(prefix: bytes, block: int) -> bytes:
    """A frame's associated data, from `Origin.frame_prefix` and its block's number."""
    return prefix + block.to_bytes(8, "little")


def frame_nonce(block: int) -> bytes:
    """The data key belongs to one pack and a block comes once in it, so this nonce comes once."""
    return block.to_bytes(12, "little")


class FrameReader:
    """Opens the frames of one origin. Not for two threads at once (it reuses one decompressor)."""

    def __init__(self, keys: PrivateKeys, key: str, origin: Origin) -> None:
        """`key` is that of the object the frames lie in; `origin` is as a segment's pack table or the pack's
        index has it.

        Raises DamagedObject when the data key does not open.
        """
        self._key = key
        self._hash_key = keys.metadata.worker.hash_key
        self._prefix = origin.frame_prefix(keys.repository)
        self._zstd = zstandard.ZstdDecompressor()
        self._cipher: AESGCM | None = None
        if keys.encrypted:
            if origin.generation >= len(keys.data_keys):
                why = f"its data key is of generation {origin.generation}, newer than the private key"
                raise DamagedObject(key, why)
            info = origin.data_key_info(keys.repository)
            try:
                self._cipher = AESGCM(unwrap(origin.data_key, keys.data_keys[origin.generation], info))
            except WrongKey as error:
                raise DamagedObject(key, str(error)) from error

    def open(self, block: int, kind: int, expected_hash: bytes, frame: Buffer, moved: int = 0) -> bytes:
        """The plain block: 1..65536 bytes, tag and hash checked; `frame` is exactly its bytes.

        It was sealed as block `block` + `moved`, modulo 2^64. A hole has no frame and must not be asked for.
        Raises DamagedObject with the block's number.
        """
        text = self._unseal(block, (block + moved) % (1 << 64), frame)
        if kind == Kind.RAW:
            plain = bytes(text)
        elif kind == Kind.ZSTD:
            try:
                plain = decompress(text, limit=BLOCK_SIZE, decompressor=self._zstd)
            except CompressionError as error:
                raise DamagedObject(self._key, str(error), block) from error
        else:
            raise DamagedObject(self._key, f"a frame of unknown kind {kind}", block)
        if blake3(plain, key=self._hash_key).digest(length=HASH_SIZE) != expected_hash:
            raise DamagedObject(self._key, "the block's hash does not match", block)
        return plain

    def _unseal(self, block: int, sealed_as: int, frame: Buffer) -> Buffer:
        if self._cipher is None:
            if not 0 < len(frame) <= BLOCK_SIZE:
                raise DamagedObject(self._key, f"a frame of {len(frame)} bytes", block)
            return frame
        if not TAG_SIZE < len(frame) <= MAX_FRAME:
            raise DamagedObject(self._key, f"a frame of {len(frame)} bytes", block)
        try:
            associated = frame_associated(self._prefix, sealed_as)
            return self._cipher.decrypt(frame_nonce(sealed_as), frame, associated)
        except InvalidTag as error:
            raise DamagedObject(self._key, "the frame's seal is broken", block) from error
