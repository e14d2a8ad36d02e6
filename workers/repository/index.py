"""Reading a pack's tail: the footer and the sealed index, by one ranged GET or two."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from workers.extents import BLOCK_SIZE, MAX_DISK_SIZE, block_count
from workers.repository.compression import CompressionError, decompress
from workers.repository.errors import DamagedObject
from workers.repository.frame import HASH_SIZE, MAX_FRAME, Kind
from workers.repository.keys import MetadataKeys, WrongKey, unwrap
from workers.repository.naming import PackName
from workers.repository.pack_layout import (
    ENTRY,
    FOOTER_SIZE,
    HEADER,
    INDEX_COLUMNS,
    INDEX_HEADER,
    MAX_ENTRIES,
    MAX_INDEX,
    Footer,
    NotAFooter,
    index_associated,
    index_key_info,
)
from workers.repository.sealing import SealBroken, unmark, unseal
from workers.repository.store import ObjectInfo, Store

TAIL_READ = 24 * 1024
"""The first ranged GET: an index of 512 blocks has about 10 KiB, its footer 184 bytes."""


@dataclass(frozen=True)
class PackTail:
    """What a pack says of itself; `entries` is an array of ENTRY, ascending by block."""

    name: PackName
    size: int
    data_key: bytes = field(repr=False)
    virtual_size: int
    entries: npt.NDArray[np.void] = field(repr=False)


def read_pack_index(store: Store, info: ObjectInfo, keys: MetadataKeys) -> npt.NDArray[np.void]:
    """The index of one pack: an array of ENTRY, ascending by block. Raises DamagedObject."""
    return read_pack_tail(store, info, keys).entries


def read_pack_tail(store: Store, info: ObjectInfo, keys: MetadataKeys) -> PackTail:
    """Footer and index of one pack; `info` as the listing gave it. Raises DamagedObject."""
    name = PackName.parse(info.key)
    if name is None:
        raise DamagedObject(info.key, "its key is not a pack's")
    if info.size < HEADER.size + FOOTER_SIZE:
        raise DamagedObject(info.key, f"it has {info.size} bytes, fewer than any pack")
    read = min(info.size, TAIL_READ)
    tail = store.get_range(info.key, info.size - read, read)
    try:
        footer = Footer.decode(tail[-FOOTER_SIZE:], info.size)
    except NotAFooter as error:
        raise DamagedObject(info.key, str(error)) from error
    wanted = footer.index_length + FOOTER_SIZE
    if wanted > read:
        tail = store.get_range(info.key, info.size - wanted, wanted - read) + tail
    index = tail[len(tail) - wanted : len(tail) - FOOTER_SIZE]
    plain = _open_index(name, index, footer, tail[-FOOTER_SIZE:], keys)
    virtual_size, entries = _decode_index(info.key, plain, footer.frames_end, footer.encrypted)
    return PackTail(name, info.size, footer.data_key, virtual_size, entries)


def _open_index(name: PackName, index: bytes, footer: Footer, encoded: bytes, keys: MetadataKeys) -> bytes:
    if footer.encrypted != keys.encrypted:
        is_not = "is" if footer.encrypted else "is not"
        raise DamagedObject(name.key, f"the pack {is_not} encrypted, unlike its repository")
    place = (keys.repository, name.disk, name.run, name.batch)
    associated = index_associated(*place, encoded)
    try:
        if keys.encrypted:
            index_key = unwrap(footer.index_key, keys.private_key, index_key_info(*place))
            compressed = unseal(index_key, 0, index, associated)
        else:
            compressed = unmark(keys.worker.hash_key, 0, index, associated)
        return decompress(compressed, limit=MAX_INDEX)
    except (WrongKey, SealBroken, CompressionError) as error:
        raise DamagedObject(name.key, f"its index: {error}") from error


def _decode_index(
    key: str, plain: bytes, frames_end: int, encrypted: bool
) -> tuple[int, npt.NDArray[np.void]]:
    if len(plain) < INDEX_HEADER.size:
        raise DamagedObject(key, "its index is too short")
    virtual_size, count, _ = INDEX_HEADER.unpack_from(plain)
    row = sum(width for _, _, width in INDEX_COLUMNS) + HASH_SIZE
    if count > MAX_ENTRIES or virtual_size > MAX_DISK_SIZE or len(plain) != INDEX_HEADER.size + count * row:
        raise DamagedObject(key, "its index names impossible sizes")
    entries = np.zeros(count, ENTRY)
    position = INDEX_HEADER.size
    for name, kind, width in INDEX_COLUMNS:
        entries[name] = np.frombuffer(plain, kind, count, position)
        position += count * width
    entries["hash"] = np.frombuffer(plain, np.uint8, count * HASH_SIZE, position).reshape(count, HASH_SIZE)
    lengths = entries["length"].astype(np.uint64)
    entries["offset"] = HEADER.size + np.cumsum(lengths) - lengths
    if HEADER.size + int(lengths.sum()) != frames_end:
        raise DamagedObject(key, "its frames do not end where its index says")
    check_entries(key, entries, virtual_size, max_frame(encrypted), last_kind=Kind.UNCHANGED)
    return virtual_size, entries


def max_frame(encrypted: bool) -> int:
    return MAX_FRAME if encrypted else BLOCK_SIZE


def check_entries(
    key: str, entries: npt.NDArray[np.void], virtual_size: int, max_frame: int, *, last_kind: Kind = Kind.HOLE
) -> None:
    """Raises DamagedObject unless blocks ascend within the disk and every frame has a possible length."""
    blocks, lengths, kinds = entries["block"], entries["length"], entries["flags"]
    if len(blocks) and (np.any(blocks[1:] <= blocks[:-1]) or int(blocks[-1]) >= block_count(virtual_size)):
        raise DamagedObject(key, "its blocks do not ascend within the disk")
    without_frame = kinds >= Kind.HOLE
    if np.any(kinds > last_kind) or np.any(lengths > max_frame) or np.any(without_frame != (lengths == 0)):
        raise DamagedObject(key, "it has an entry of an impossible kind or length")
