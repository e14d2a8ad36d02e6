"""Envelopes: the form of every small object (segments, points, bitmaps, run records).

    0                        48          48 + 16 s
    | CBTFMETA, s, salt      | s x sizes | section 0 | section 1 |

Each object has a key of its own (HKDF of the sealing key, the salt and the object's name), so an object
under another's name does not open and nonces cannot run out. Section 0 can be read alone.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field

from workers.repository.compression import CompressionError, compress, content_size, decompress
from workers.repository.errors import DamagedObject
from workers.repository.keys import MetadataKeys, derive
from workers.repository.naming import binding
from workers.repository.sealing import TAG_SIZE, SealBroken, mark, seal, unmark, unseal
from workers.repository.store import Buffer

_HEADER = struct.Struct("<8sHHI32s")
_SIZES = struct.Struct("<QQ")
_MAGIC = b"CBTFMETA"
_VERSION = 1
_ENCRYPTED = 1
_SALT_SIZE = 32


@dataclass(frozen=True)
class _Header:
    encoded: bytes
    encrypted: bool
    salt: bytes = field(repr=False)
    sizes: tuple[tuple[int, int], ...]
    """Plain and stored length of each section."""

    def start(self, section: int) -> int:
        return len(self.encoded) + sum(stored for _, stored in self.sizes[:section])


def seal_object(keys: MetadataKeys, key: str, sections: Sequence[Buffer]) -> bytes:
    """The object to put under `key`, which is bound into it."""
    compressed = [compress(section) for section in sections]
    salt = os.urandom(_SALT_SIZE)
    flags = _ENCRYPTED if keys.encrypted else 0
    header = _HEADER.pack(_MAGIC, _VERSION, flags, len(sections), salt)
    for plain, text in zip(sections, compressed, strict=True):
        header += _SIZES.pack(len(plain), len(text) + TAG_SIZE)
    place = binding("object", keys.repository, key)
    if keys.encrypted:
        object_key = derive(keys.seal_key, place, salt)
        sealed = [seal(object_key, number, text, header) for number, text in enumerate(compressed)]
    else:
        associated = place + b"\0" + header
        sealed = [
            mark(keys.worker.hash_key, number, text, associated) for number, text in enumerate(compressed)
        ]
    return header + b"".join(sealed)


def open_object(keys: MetadataKeys, key: str, data: Buffer, limits: Sequence[int]) -> list[bytes]:
    """The plain sections, as many as there are `limits` of their plain lengths. Raises DamagedObject."""
    header = _read_header(keys, key, data, limits)
    if header.start(len(limits)) != len(data):
        raise DamagedObject(key, f"it has {len(data)} bytes, its header says {header.start(len(limits))}")
    return [_open_section(keys, key, header, number, data) for number in range(len(limits))]


def open_first_section(keys: MetadataKeys, key: str, data: Buffer, limits: Sequence[int]) -> bytes:
    """Section 0 from the beginning of an object: `data` need not reach further. Raises DamagedObject."""
    header = _read_header(keys, key, data, limits)
    if header.start(1) > len(data):
        raise DamagedObject(key, "its first section is longer than its restore point says")
    return _open_section(keys, key, header, 0, data)


def first_section_end(data: Buffer) -> int:
    """Where section 1 begins in an object that `seal_object` made: what reading section 0 alone takes."""
    sections = _HEADER.unpack_from(data)[3]
    _, stored = _SIZES.unpack_from(data, _HEADER.size)
    return int(_HEADER.size + sections * _SIZES.size + stored)


def _read_header(keys: MetadataKeys, key: str, data: Buffer, limits: Sequence[int]) -> _Header:
    if len(data) < _HEADER.size + len(limits) * _SIZES.size:
        raise DamagedObject(key, f"it is cut off after {len(data)} bytes")
    magic, version, flags, sections, salt = _HEADER.unpack_from(data)
    if magic != _MAGIC or version != _VERSION or flags & ~_ENCRYPTED:
        raise DamagedObject(key, "its header is not one that this program knows")
    if bool(flags & _ENCRYPTED) != keys.encrypted:
        raise DamagedObject(key, f"it is {'' if flags else 'not '}encrypted, unlike its repository")
    if sections != len(limits):
        raise DamagedObject(key, f"it has {sections} sections, {len(limits)} were expected")
    end = _HEADER.size + sections * _SIZES.size
    sizes = tuple(_SIZES.iter_unpack(bytes(data[_HEADER.size : end])))
    for (plain, stored), limit in zip(sizes, limits, strict=True):
        if plain > limit or stored < TAG_SIZE or stored > limit + limit // 64 + 4096:
            raise DamagedObject(key, "its header names impossible sizes")
    return _Header(bytes(data[:end]), keys.encrypted, salt, sizes)


def _open_section(keys: MetadataKeys, key: str, header: _Header, number: int, data: Buffer) -> bytes:
    plain_length, stored = header.sizes[number]
    start = header.start(number)
    text = memoryview(data)[start : start + stored]
    place = binding("object", keys.repository, key)
    try:
        if keys.encrypted:
            object_key = derive(keys.seal_key, place, header.salt)
            compressed = unseal(object_key, number, text, header.encoded)
        else:
            compressed = unmark(keys.worker.hash_key, number, text, place + b"\0" + header.encoded)
        if content_size(compressed) != plain_length:
            raise DamagedObject(key, "a section has another size than its header says")
        return decompress(compressed, limit=plain_length)
    except (SealBroken, CompressionError) as error:
        raise DamagedObject(key, str(error)) from error
