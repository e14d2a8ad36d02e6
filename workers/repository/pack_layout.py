"""Where things lie in a pack.

0                16                          frames_end        + index_length     + 184
| header 16      | frame | frame | ...       | index           | footer 184       |
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

import numpy as np

from workers.extents import BATCH_BLOCKS, MAX_DISK_SIZE
from workers.repository.frame import HASH_SIZE, MAX_FRAME
from workers.repository.keys import MAX_GENERATION, WRAPPED_SIZE
from workers.repository.limits import INDEX
from workers.repository.naming import BATCH_NUMBERS, MAX_NAME, binding, is_name
from workers.repository.origin import Origin
from workers.repository.sealing import TAG_SIZE

VERSION = 1
ENCRYPTED = 1
"""The flag, in header and footer, of a pack whose frames and index are sealed."""

HEADER = struct.Struct("<8sHHI")
HEADER_MAGIC = b"CBTFPACK"
_FOOTER_FACTS = struct.Struct("<QIHH")
_FOOTER_MAGIC = b"CBTFTAIL"
SIGNER_SIZE = 16
SIGNATURE_SIZE = 64
UNSIGNED = bytes(SIGNER_SIZE + SIGNATURE_SIZE)
"""Signer and signature of a pack that nobody signed."""

_SIGNER = WRAPPED_SIZE + _FOOTER_FACTS.size
_SIGNATURE = _SIGNER + SIGNER_SIZE
FOOTER_SIZE = _SIGNATURE + SIGNATURE_SIZE + len(_FOOTER_MAGIC)
INDEX_HEADER = struct.Struct("<II")
_GROUP_FACTS = struct.Struct(f"<IIQI{WRAPPED_SIZE}s")
_MAX_GROUP = 3 * (1 + MAX_NAME) + _GROUP_FACTS.size

INDEX_COLUMNS = (("block", "<u8", 8), ("length", "<u4", 4), ("flags", "u1", 1))
"""Name, type and bytes of the index's columns, in their order; the hashes follow them."""

MAX_ENTRIES = 65536
"""More entries than this in one pack are a damaged pack: ours have 512."""

MAX_GROUPS = 4096
"""More groups than this are a damaged pack: what a worker writes has one."""

PACK_CAPACITY = (
    HEADER.size
    + BATCH_BLOCKS * MAX_FRAME
    + INDEX_HEADER.size
    + _MAX_GROUP
    + BATCH_BLOCKS * (8 + 4 + 1 + HASH_SIZE)
) + (4096 + TAG_SIZE + FOOTER_SIZE)
"""Bytes of the largest pack of 512 blocks, with room for an index that zstd makes longer."""

ENTRY = np.dtype(
    [("block", "<u8"), ("offset", "<u8"), ("length", "<u4"), ("flags", "u1"), ("hash", "u1", (HASH_SIZE,))]
)
"""One block of a pack: its number, its frame's place in the object, its `Kind`, the keyed hash of its plain
bytes (16 bytes, zeros for a hole)."""


class NotAFooter(Exception):
    """These bytes are not a pack's footer. Callers know the object and say so."""


class NotGroups(Exception):
    """These bytes are not an index's groups. Callers know the object and say so."""


@dataclass(frozen=True)
class Group:
    """`blocks` of a pack one after the other that have one origin; `virtual_size` is the disk's at that run.

    A pack that a worker wrote has one.
    """

    origin: Origin
    virtual_size: int
    blocks: int

    def encode(self) -> bytes:
        disk, run, batch, snapshot, generation, data_key = self.origin
        names = b"".join(bytes([len(name)]) + name.encode("ascii") for name in (disk, run, snapshot))
        return names + _GROUP_FACTS.pack(batch, generation, self.virtual_size, self.blocks, data_key)


def decode_groups(plain: bytes, count: int) -> tuple[tuple[Group, ...], int]:
    """`count` groups, from behind the header of a plain index, and where they end. Raises NotGroups."""
    groups: list[Group] = []
    at = INDEX_HEADER.size
    for _ in range(count):
        names: list[str] = []
        for _ in range(3):
            end = at + 1 + plain[at] if at < len(plain) else at
            names.append(plain[at + 1 : end].decode("ascii", "replace"))
            at = end
        if not all(map(is_name, names)) or at + _GROUP_FACTS.size > len(plain):
            raise NotGroups("its index has a group without proper names, or ends in it")
        batch, generation, virtual_size, blocks, data_key = _GROUP_FACTS.unpack_from(plain, at)
        at += _GROUP_FACTS.size
        if batch >= BATCH_NUMBERS or generation > MAX_GENERATION or virtual_size > MAX_DISK_SIZE:
            raise NotGroups("its index names impossible sizes")
        disk, run, snapshot = names
        groups.append(Group(Origin(disk, run, batch, snapshot, generation, data_key), virtual_size, blocks))
    return tuple(groups), at


@dataclass(frozen=True)
class Footer:
    """The last 184 bytes: the wrapped index key, where the index is, and who signed the pack."""

    index_key: bytes = field(repr=False)
    frames_end: int
    index_length: int
    encrypted: bool
    signer: bytes = bytes(SIGNER_SIZE)
    signature: bytes = field(default=bytes(SIGNATURE_SIZE), repr=False)

    @property
    def facts(self) -> bytes:
        """The part that the index's seal covers."""
        flags = ENCRYPTED if self.encrypted else 0
        return _FOOTER_FACTS.pack(self.frames_end, self.index_length, VERSION, flags)

    def encode(self) -> bytes:
        return self.index_key + self.facts + self.signer + self.signature + _FOOTER_MAGIC

    @classmethod
    def decode(cls, data: bytes, object_size: int) -> Footer:
        """Raises NotAFooter when `data` (184 bytes) cannot end an object of `object_size` bytes."""
        end, length, version, flags = _FOOTER_FACTS.unpack_from(data, WRAPPED_SIZE)
        if data[-len(_FOOTER_MAGIC) :] != _FOOTER_MAGIC:
            raise NotAFooter("it does not end like a pack: cut, or something else")
        if version != VERSION or flags & ~ENCRYPTED:
            raise NotAFooter(f"version {version}, flags {flags}: this program reads version {VERSION} only")
        if (
            length > INDEX + TAG_SIZE + 65536
            or not HEADER.size <= end <= MAX_ENTRIES * MAX_FRAME + HEADER.size
        ):
            raise NotAFooter("its footer names impossible sizes")
        if end + length + FOOTER_SIZE != object_size:
            raise NotAFooter(f"it has {object_size} bytes, its footer says {end + length + FOOTER_SIZE}")
        signer, signature = data[_SIGNER:_SIGNATURE], data[_SIGNATURE : _SIGNATURE + SIGNATURE_SIZE]
        if any(signer) != any(signature):
            raise NotAFooter("it has a signer without a signature, or a signature without a signer")
        return cls(data[:WRAPPED_SIZE], end, length, bool(flags & ENCRYPTED), signer, signature)


def header(encrypted: bool) -> bytes:
    return HEADER.pack(HEADER_MAGIC, VERSION, ENCRYPTED if encrypted else 0, 0)


def index_key_info(repository: str, disk: str, run: str, batch: int) -> bytes:
    return binding("index key", repository, disk, run, batch)


def index_associated(repository: str, disk: str, run: str, batch: int, facts: bytes) -> bytes:
    """`facts` are the footer's."""
    return binding("index", repository, disk, run, batch) + b"\0" + facts
