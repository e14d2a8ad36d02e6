"""Reading a pack's tail: the footer and the sealed index, by one ranged GET or two."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from workers.extents import BLOCK_SIZE, block_count
from workers.repository.compression import CompressionError, decompress
from workers.repository.errors import DamagedObject
from workers.repository.frame import HASH_SIZE, MAX_FRAME, Kind
from workers.repository.keys import NO_WRAPPED_KEY, MetadataKeys, WrongKey, unwrap
from workers.repository.limits import INDEX
from workers.repository.naming import PackName
from workers.repository.pack_layout import (
    ENTRY,
    FOOTER_SIZE,
    HEADER,
    INDEX_COLUMNS,
    INDEX_HEADER,
    MAX_ENTRIES,
    MAX_GROUPS,
    Footer,
    Group,
    NotAFooter,
    NotGroups,
    decode_groups,
    index_associated,
    index_key_info,
)
from workers.repository.sealing import SealBroken, unmark, unseal
from workers.repository.store import ObjectInfo, Store

TAIL_READ = 24 * 1024
"""The first ranged GET: an index of 512 blocks has about 10 KiB, its footer 184 bytes."""


@dataclass(frozen=True)
class PackTail:
    """What a pack says of itself.

    `entries` is an array of ENTRY: the blocks of the first of `groups`, then those of the second, and so on;
    ascending by block in a group.
    """

    name: PackName
    size: int
    groups: tuple[Group, ...]
    entries: npt.NDArray[np.void] = field(repr=False)

    @property
    def own(self) -> Group | None:
        """The one group of a pack as a worker writes it; None when frames were copied into it."""
        return self.groups[0] if _is_own(self.name, self.groups) else None


def read_pack_index(store: Store, info: ObjectInfo, keys: MetadataKeys) -> npt.NDArray[np.void]:
    """The index of one pack: the entries of its tail. Raises DamagedObject."""
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
    plain = _open_index(name, index, footer, keys)
    groups, entries = _decode_index(name, plain, footer)
    return PackTail(name, info.size, groups, entries)


def _open_index(name: PackName, index: bytes, footer: Footer, keys: MetadataKeys) -> bytes:
    if footer.encrypted != keys.encrypted:
        is_not = "is" if footer.encrypted else "is not"
        raise DamagedObject(name.key, f"the pack {is_not} encrypted, unlike its repository")
    if not keys.encrypted and footer.index_key != NO_WRAPPED_KEY:
        raise DamagedObject(name.key, "it is not encrypted and has a key")
    place = (keys.repository, name.disk, name.run, name.batch)
    associated = index_associated(*place, footer.facts)
    try:
        if keys.encrypted:
            index_key = unwrap(footer.index_key, keys.private_key, index_key_info(*place))
            compressed = unseal(index_key, 0, index, associated)
        else:
            compressed = unmark(keys.worker.hash_key, 0, index, associated)
        return decompress(compressed, limit=INDEX)
    except (WrongKey, SealBroken, CompressionError) as error:
        raise DamagedObject(name.key, f"its index: {error}") from error


def _decode_index(
    name: PackName, plain: bytes, footer: Footer
) -> tuple[tuple[Group, ...], npt.NDArray[np.void]]:
    key = name.key
    if len(plain) < INDEX_HEADER.size:
        raise DamagedObject(key, "its index is too short")
    group_count, count = INDEX_HEADER.unpack_from(plain)
    if count > MAX_ENTRIES or not 0 < group_count <= MAX_GROUPS:
        raise DamagedObject(key, "its index names impossible sizes")
    try:
        groups, position = decode_groups(plain, group_count)
    except NotGroups as error:
        raise DamagedObject(key, str(error)) from error
    row = sum(width for _, _, width in INDEX_COLUMNS) + HASH_SIZE
    if sum(group.blocks for group in groups) != count or len(plain) != position + count * row:
        raise DamagedObject(key, "its index names impossible sizes")
    entries = np.zeros(count, ENTRY)
    for column, kind, width in INDEX_COLUMNS:
        entries[column] = np.frombuffer(plain, kind, count, position)
        position += count * width
    entries["hash"] = np.frombuffer(plain, np.uint8, count * HASH_SIZE, position).reshape(count, HASH_SIZE)
    lengths = entries["length"].astype(np.uint64)
    entries["offset"] = HEADER.size + np.cumsum(lengths) - lengths
    if HEADER.size + int(lengths.sum()) != footer.frames_end:
        raise DamagedObject(key, "its frames do not end where its index says")
    last_kind = Kind.UNCHANGED if _is_own(name, groups) else Kind.ZSTD
    start = 0
    for group in groups:
        part = entries[start : start + group.blocks]
        check_entries(key, part, group.virtual_size, max_frame(footer.encrypted), last_kind=last_kind)
        start += group.blocks
    return groups, entries


def _is_own(name: PackName, groups: tuple[Group, ...]) -> bool:
    return len(groups) == 1 and groups[0].origin[:3] == name[:3]


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
