"""Segments: pieces of block map, column by column, in two sections.

section 0, the pack table   which packs                    (prune reads this alone)
section 1, the entries      block -> row of the pack table, offset, length, kind, hash
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from workers.repository.envelope import first_section_end, open_first_section, open_object, seal_object
from workers.repository.errors import DamagedObject
from workers.repository.frame import HASH_SIZE, Kind
from workers.repository.index import check_entries, max_frame
from workers.repository.keys import MAX_GENERATION, WRAPPED_SIZE, MetadataKeys
from workers.repository.limits import SEGMENT
from workers.repository.naming import BATCH_NUMBERS, PackName, is_name
from workers.repository.origin import Origin
from workers.repository.pack_layout import HEADER
from workers.repository.point import SegmentRef
from workers.repository.store import ObjectTooLarge, ObjectTruncated, Store

SEGMENT_ENTRIES = 1 << 18
"""Entries a segment that we write: few MiB an object, and 17 layers of them can be merged in memory."""

MAX_SEGMENT_ENTRIES = 1 << 20
"""More than this is a damaged segment."""

SEGMENT_ENTRY = np.dtype(
    [
        ("block", "<u8"),
        ("pack", "<u4"),
        ("offset", "<u8"),
        ("length", "<u4"),
        ("flags", "u1"),
        ("hash", "u1", (HASH_SIZE,)),
        ("moved", "<u8"),
    ]
)
"""One block of a disk: `pack` is a row of the pack table; the frame was sealed as block `block` + `moved`,
modulo 2^64; the rest is as in a pack's ENTRY. In the order of the columns in the object."""

PACK_ROW = np.dtype(
    [
        ("object_disk", "<u4"),
        ("object_run", "<u4"),
        ("object_batch", "<u4"),
        ("hash", "u1", (HASH_SIZE,)),
        ("size", "<u8"),
        ("disk", "<u4"),
        ("run", "<u4"),
        ("snapshot", "<u4"),
        ("batch", "<u4"),
        ("generation", "<u4"),
        ("data_key", "u1", (WRAPPED_SIZE,)),
    ]
)
"""One row of a pack table: where the bytes lie (to `size`), and what they were sealed as. Disks, runs and
snapshots are indexes into the table's names; `data_key` is HPKE-wrapped."""

NAMED = ("object_disk", "object_run", "disk", "run", "snapshot")
"""The columns of a pack table that are indexes into its names."""

_TABLE_HEADER = struct.Struct("<II")
_ENTRIES_HEADER = struct.Struct("<I")
_ENTRY_BYTES = SEGMENT_ENTRY.itemsize


@dataclass(frozen=True)
class PackTable:
    """The packs that a piece of block map refers to; `rows` is an array of PACK_ROW."""

    names: tuple[str, ...]
    rows: npt.NDArray[np.void] = field(repr=False)

    def __len__(self) -> int:
        return len(self.rows)

    def name(self, row: int) -> PackName:
        """Of the object."""
        found, names = self.rows[row], self.names
        disk, run = names[found["object_disk"]], names[found["object_run"]]
        return PackName(disk, run, int(found["object_batch"]), found["hash"].tobytes())

    def size(self, row: int) -> int:
        """Bytes of the pack object."""
        return int(self.rows[row]["size"])

    def origin(self, row: int) -> Origin:
        found, names = self.rows[row], self.names
        return Origin(
            names[found["disk"]],
            names[found["run"]],
            int(found["batch"]),
            names[found["snapshot"]],
            int(found["generation"]),
            found["data_key"].tobytes(),
        )


@dataclass(frozen=True)
class BlockMap:
    """A piece of block map in memory: `entries` is an array of SEGMENT_ENTRY, ascending by block."""

    table: PackTable
    entries: npt.NDArray[np.void] = field(repr=False)


def seal_segment(keys: MetadataKeys, key: str, piece: BlockMap) -> tuple[bytes, SegmentRef]:
    """The object to put under `key`, and how a restore point refers to it. `piece` must not be empty."""
    data = seal_object(keys, key, (_encode_table(piece.table), _encode_entries(piece.entries)))
    return data, reference_of(key, data, piece)


def reference_of(key: str, data: bytes, piece: BlockMap) -> SegmentRef:
    """How a restore point refers to the segment `data`, which holds `piece`."""
    blocks = piece.entries["block"]
    return SegmentRef(
        key=key,
        first=int(blocks[0]),
        last=int(blocks[-1]),
        entries=len(blocks),
        packs=len(piece.table),
        size=len(data),
        table_bytes=first_section_end(data),
    )


def read_segment(store: Store, keys: MetadataKeys, segment: SegmentRef, virtual_size: int) -> BlockMap:
    """One segment, checked against what its restore point says of it. Raises DamagedObject, ObjectMissing."""
    data = _whole(store, segment.key, segment.size)
    piece = open_segment(keys, segment.key, data, virtual_size)
    blocks = piece.entries["block"]
    facts = (int(blocks[0]), int(blocks[-1]), len(blocks), len(piece.table))
    if facts != (segment.first, segment.last, segment.entries, segment.packs):
        raise DamagedObject(segment.key, "it is another segment than its restore point says")
    return piece


def read_pack_table(store: Store, keys: MetadataKeys, segment: SegmentRef) -> PackTable:
    """The pack table of a segment alone, by one ranged GET. Raises DamagedObject, ObjectMissing."""
    try:
        data = store.get_range(segment.key, 0, segment.table_bytes)
    except ObjectTruncated as error:
        raise DamagedObject(
            segment.key, f"it is cut off: shorter than {segment.table_bytes} bytes"
        ) from error
    return _decode_table(segment.key, open_first_section(keys, segment.key, data, SEGMENT.sections))


def open_segment(keys: MetadataKeys, key: str, data: bytes, virtual_size: int) -> BlockMap:
    """A whole segment object. Raises DamagedObject unless every entry makes sense for a disk of that size."""
    table_plain, entries_plain = open_object(keys, key, data, SEGMENT.sections)
    table = _decode_table(key, table_plain)
    entries = _decode_entries(key, entries_plain)
    check_entries(key, entries, virtual_size, max_frame(keys.encrypted))
    frames = entries[entries["flags"] != Kind.HOLE]
    if np.any(entries["pack"] >= len(table)):
        raise DamagedObject(key, "it refers to a pack that it does not list")
    sizes = table.rows["size"][frames["pack"]]
    offsets, lengths = frames["offset"], frames["length"].astype(np.uint64)
    if np.any(offsets < HEADER.size) or np.any(offsets > sizes) or np.any(lengths > sizes - offsets):
        raise DamagedObject(key, "it refers to a place outside of its pack")
    return BlockMap(table, entries)


def join(pieces: Sequence[BlockMap]) -> BlockMap:
    """All entries one after the other, with one pack table (rows may come twice in it)."""
    names: dict[str, int] = {}
    rows = [piece.table.rows.copy() for piece in pieces]
    entries = np.concatenate([piece.entries for piece in pieces])
    end = start = 0
    for piece, copied in zip(pieces, rows, strict=True):
        renumbered = np.array([names.setdefault(name, len(names)) for name in piece.table.names], np.uint32)
        if len(copied):
            for column in NAMED:
                copied[column] = renumbered[copied[column]]
        entries["pack"][end : end + len(piece.entries)] += np.uint32(start)
        end += len(piece.entries)
        start += len(copied)
    return BlockMap(PackTable(tuple(names), np.concatenate(rows)), entries)


def without_unused(piece: BlockMap) -> BlockMap:
    """The same entries with a pack table that has each row once, and none that they do not refer to."""
    used, back = np.unique(piece.entries["pack"], return_inverse=True)
    rows = piece.table.rows[used]
    different, to_different = np.unique(rows.view(f"V{PACK_ROW.itemsize}"), return_inverse=True)
    rows = different.view(PACK_ROW)
    names, renumbered = np.unique([rows[column] for column in NAMED], return_inverse=True)
    for column, numbers in zip(NAMED, renumbered.reshape(len(NAMED), -1), strict=True):
        rows[column] = numbers
    entries = piece.entries.copy()
    entries["pack"] = to_different[back]
    table = PackTable(tuple(piece.table.names[int(name)] for name in names), rows)
    return BlockMap(table, entries)


def only_frames(piece: BlockMap) -> BlockMap:
    """The piece without its holes."""
    kept = piece.entries[piece.entries["flags"] != Kind.HOLE]
    return without_unused(BlockMap(piece.table, kept))


def _whole(store: Store, key: str, size: int) -> bytes:
    try:
        data = store.get(key, size)
        found = len(data)
    except ObjectTooLarge as error:
        found = error.size
    if found != size:
        raise DamagedObject(key, f"it has {found} bytes, its restore point says {size}")
    return data


def _encode_table(table: PackTable) -> bytes:
    names = b"".join(bytes([len(name)]) + name.encode("ascii") for name in table.names)
    rows = table.rows
    assert rows.dtype.names is not None
    columns = b"".join(np.ascontiguousarray(rows[name]).tobytes() for name in rows.dtype.names)
    return _TABLE_HEADER.pack(len(table.names), len(rows)) + names + columns


def _decode_table(key: str, plain: bytes) -> PackTable:
    position = _TABLE_HEADER.size
    if len(plain) < position:
        raise DamagedObject(key, "its pack table is too short")
    name_count, pack_count = _TABLE_HEADER.unpack_from(plain)
    if name_count > MAX_SEGMENT_ENTRIES:
        raise DamagedObject(key, "its pack table claims more names than it can need")
    names: list[str] = []
    while len(names) < name_count and position < len(plain):
        end = position + 1 + plain[position]
        names.append(plain[position + 1 : end].decode("ascii", "replace"))
        position = end
    if len(names) != name_count or not all(map(is_name, names)):
        raise DamagedObject(key, "its pack table has an improper name")
    if pack_count > MAX_SEGMENT_ENTRIES or len(plain) != position + pack_count * PACK_ROW.itemsize:
        raise DamagedObject(key, "its pack table has another length than its number of packs needs")
    rows = np.empty(pack_count, PACK_ROW)
    assert PACK_ROW.names is not None
    for name in PACK_ROW.names:
        kind = PACK_ROW[name]
        rows[name] = np.frombuffer(plain, kind, pack_count, position)
        position += pack_count * kind.itemsize
    if any(np.any(rows[column] >= name_count) for column in NAMED):
        raise DamagedObject(key, "its pack table refers to a name that it does not list")
    if any(np.any(rows[column] >= BATCH_NUMBERS) for column in ("batch", "object_batch")):
        raise DamagedObject(key, "its pack table refers to a batch that cannot be")
    if np.any(rows["generation"] > MAX_GENERATION):
        raise DamagedObject(key, "its pack table refers to a generation of keys that cannot be")
    return PackTable(tuple(names), rows)


def _encode_entries(entries: npt.NDArray[np.void]) -> bytes:
    """Blocks as differences and offsets as gaps: nearly all of them are then the same, and compress away."""
    ends = entries["offset"] + entries["length"]
    columns = (
        np.diff(entries["block"], prepend=np.uint64(0)),
        entries["pack"],
        entries["offset"] - np.concatenate((np.zeros(1, np.uint64), ends[:-1])),
        entries["length"],
        entries["flags"],
        entries["hash"],
        entries["moved"],
    )
    header = _ENTRIES_HEADER.pack(len(entries))
    return header + b"".join(np.ascontiguousarray(column).tobytes() for column in columns)


def _decode_entries(key: str, plain: bytes) -> npt.NDArray[np.void]:
    count = _ENTRIES_HEADER.unpack_from(plain)[0] if len(plain) >= _ENTRIES_HEADER.size else 0
    if not 0 < count <= MAX_SEGMENT_ENTRIES or len(plain) != _ENTRIES_HEADER.size + count * _ENTRY_BYTES:
        raise DamagedObject(key, "it has another length than its number of entries needs")
    entries = np.empty(count, SEGMENT_ENTRY)
    position = _ENTRIES_HEADER.size
    assert SEGMENT_ENTRY.names is not None
    for name in SEGMENT_ENTRY.names:
        kind = SEGMENT_ENTRY[name]
        entries[name] = np.frombuffer(plain, kind, count, position)
        position += count * kind.itemsize
    entries["block"] = np.cumsum(entries["block"], dtype=np.uint64)
    ends = np.cumsum(entries["offset"] + entries["length"], dtype=np.uint64)
    entries["offset"] = ends - entries["length"]
    return entries
