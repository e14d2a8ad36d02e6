"""zstd with sizes that are checked before anything is allocated.

`ZstdDecompressor.decompress` ignores `max_output_size` when the frame states a content size, so a corrupt
frame could ask for any amount of memory; here the stated size must be the expected one.
"""

from __future__ import annotations

import zstandard

from workers.repository.store import Buffer


class CompressionError(Exception):
    """Not the zstd frame that was expected. Caught by the callers, who know the object's key."""


def compress(data: Buffer, level: int = 3) -> bytes:
    return zstandard.ZstdCompressor(level=level).compress(data)


def content_size(data: Buffer) -> int:
    """The plain size that a frame states. Raises CompressionError when it states none."""
    try:
        size = zstandard.frame_content_size(data)
    except zstandard.ZstdError as error:
        raise CompressionError("it is not compressed as it should be") from error
    if size < 0:
        raise CompressionError("its compressed part states no size")
    return size


def decompress(data: Buffer, *, limit: int, decompressor: zstandard.ZstdDecompressor | None = None) -> bytes:
    """The content of one frame. Raises CompressionError when it is larger than `limit` bytes or broken."""
    size = content_size(data)
    if size > limit:
        raise CompressionError(f"its compressed part claims {size} bytes, at most {limit} make sense")
    try:
        if size == 0:
            return _nothing(data)
        plain = (decompressor or zstandard.ZstdDecompressor()).decompress(data, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise CompressionError("it cannot be decompressed") from error
    if len(plain) != size:
        raise CompressionError("it decompresses to another size than it states")
    return plain


def _nothing(data: Buffer) -> bytes:
    """`decompress` of the library looks no further than at a size of 0, whatever follows, and takes that of
    a skippable frame for 0."""
    content = zstandard.ZstdDecompressor().decompressobj()
    plain = content.decompress(data)
    if plain or not content.eof or content.unused_data or bytes(data[:4]) != zstandard.FRAME_HEADER:
        raise CompressionError("it decompresses to another size than it states")
    return b""
