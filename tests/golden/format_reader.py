"""A reader that was written from docs/format.md alone, to find out whether that page is enough.

It shares nothing with `workers`, and wants to be short and plain: no speed, no ranges, whole objects only.
`restore(folder, point, disk, key file, passphrase)` gives a disk's bytes, or raises ValueError.
"""

from __future__ import annotations

import base64
import json
import struct
import uuid
from pathlib import Path
from typing import Any

import blake3
import zstandard
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

BLOCK = 65536
HPKE = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)


def hkdf(secret: bytes, info: bytes, salt: bytes | None = None) -> bytes:
    return HKDF(hashes.SHA256(), 32, salt, info).derive(secret)


def unzstd(data: bytes) -> bytes:
    return zstandard.ZstdDecompressor().decompress(data)


def columns(data: bytes, at: int, count: int, forms: tuple[str, ...]) -> list[tuple[Any, ...]]:
    """Rows of a table that is kept column by column and ends where `data` ends."""
    found = []
    for form in forms:
        end = at + count * struct.calcsize(form)
        found.append([value for (value,) in struct.iter_unpack(form, data[at:end])])
        at = end
    if at != len(data):
        raise ValueError("something behind the end")
    return list(zip(*found, strict=True))


def recovery_key(text: str) -> tuple[str, int, bytes]:
    """The repository's id, the generation, its master secret."""
    digits, number = "0123456789ABCDEFGHJKMNPQRSTVWXYZ", 0
    for digit in text.replace("-", ""):
        number = number * 32 + digits.index(digit)
    if len(text.replace("-", "")) != 84 or number % 16:
        raise ValueError("not a recovery key")
    data = (number // 16).to_bytes(52)
    if data[49:] != blake3.blake3(b"cbtfleet recovery key" + data[:49]).digest(length=3):
        raise ValueError("checksum")
    return str(uuid.UUID(bytes=data[:16])), data[16], data[17:49]


class Reader:
    """Section 3 of the page: keys. `config` is asked only when there is no key file and no recovery key."""

    def __init__(
        self, folder: Path, private_key: Path | None, passphrase: str = "", recovery: str | None = None
    ) -> None:
        self.folder, self.encrypted = folder, True
        if recovery is not None:
            self.id, generation, master = recovery_key(recovery)
            masters = self.masters_before(generation, master)
        elif private_key is None:
            config = json.loads(self.object("config"))
            self.id, self.encrypted = config["id"], config["encrypted"]
            self.hash_key = base64.b64decode(config["hash_key"])
            return
        else:
            file = json.loads(private_key.read_text())
            self.id = file["repository"]
            if file["format"] == "cbtfleet no key":
                self.encrypted, self.hash_key = False, base64.b64decode(file["hash_key"])
                return
            masters = self.unlock(file, passphrase)
        self.hash_key = hkdf(masters[0], b"cbtfleet 1 block hash")
        self.data_keys = [
            X25519PrivateKey.from_private_bytes(hkdf(master, b"cbtfleet 1 data key")) for master in masters
        ]
        metadata = hkdf(masters[0], b"cbtfleet 1 metadata")
        self.metadata_key = X25519PrivateKey.from_private_bytes(hkdf(metadata, b"cbtfleet 1 metadata key"))
        self.seal_key = hkdf(metadata, b"cbtfleet 1 metadata seal")

    def unlock(self, file: dict[str, Any], passphrase: str) -> list[bytes]:
        salt, sealed = base64.b64decode(file["salt"]), base64.b64decode(file["sealed"])
        if file["log_n"] > 20 or file["r"] > 16 or file["p"] > 16:
            raise ValueError("too costly")
        key = Scrypt(salt, 32, 1 << file["log_n"], file["r"], file["p"]).derive(passphrase.encode())
        place = self.binding("private key", file["generation"])
        masters = AESGCM(key).decrypt(bytes(12), sealed, place)
        if len(masters) != 32 * (file["generation"] + 1):
            raise ValueError("another number of generations")
        return [masters[start : start + 32] for start in range(0, len(masters), 32)]

    def masters_before(self, generation: int, master: bytes) -> list[bytes]:
        """All master secrets, oldest first, from the newest."""
        masters = [master]
        for number in range(generation, 0, -1):
            previous = base64.b64decode(json.loads(self.object(f"keys/{number:04d}"))["previous"])
            cipher = AESGCM(hkdf(masters[0], b"cbtfleet 1 previous"))
            masters.insert(0, cipher.decrypt(bytes(12), previous, self.binding("previous", number)))
        return masters

    def object(self, key: str) -> bytes:
        return (self.folder / key).read_bytes()

    def binding(self, kind: str, *names: object) -> bytes:
        return "\0".join(["cbtfleet 1", kind, self.id, *map(str, names)]).encode()

    def blake(self, data: bytes) -> bytes:
        return blake3.blake3(data, key=self.hash_key).digest(length=16)

    def unmark(self, data: bytes, nonce: int, associated: bytes) -> bytes:
        text, mark = data[:-16], data[-16:]
        if self.blake(associated + nonce.to_bytes(12, "little") + text) != mark:
            raise ValueError("checksum")
        return text

    # Section 5

    def envelope(self, key: str) -> list[bytes]:
        data = self.object(key)
        magic, version, flags, count, salt = struct.unpack_from("<8sHHI32s", data)
        if (magic, version, flags) != (b"CBTFMETA", 1, int(self.encrypted)):
            raise ValueError("not an envelope")
        end = 48 + 16 * count
        header, sections = data[:end], []
        for number, (plain_length, length) in enumerate(struct.iter_unpack("<QQ", data[48:end])):
            stored, end = data[end : end + length], end + length
            place = self.binding("object", key)
            if self.encrypted:
                cipher = AESGCM(hkdf(self.seal_key, place, salt))
                text = cipher.decrypt(number.to_bytes(12, "little"), stored, header)
            else:
                text = self.unmark(stored, number, place + b"\0" + header)
            sections.append(unzstd(text))
            if len(sections[-1]) != plain_length:
                raise ValueError("length")
        if end != len(data):
            raise ValueError("something behind the end")
        return sections

    # Section 6: block -> (pack's key, origin, offset, length, kind, hash, the block it was sealed as). An
    # origin is (disk, run, batch, snapshot, generation, wrapped data key).

    def segment(self, key: str) -> dict[int, tuple[Any, ...]]:
        table, entries = self.envelope(key)
        name_count, count = struct.unpack_from("<II", table)
        at, names = 8, []
        for _ in range(name_count):
            names.append(table[at + 1 : at + 1 + table[at]].decode())
            at += 1 + table[at]
        rows = columns(table, at, count, ("<I", "<I", "<I", "16s", "<Q", "<I", "<I", "<I", "<I", "<I", "80s"))
        packs = []
        for in_disk, in_run, in_batch, digest, _, disk, run, snapshot, batch, generation, wrapped in rows:
            origin = names[disk], names[run], batch, names[snapshot], generation, wrapped
            packs.append((f"packs/{names[in_disk]}/{names[in_run]}/{in_batch:08d}-{digest.hex()}", origin))
        (count,) = struct.unpack_from("<I", entries)
        found, block, end = {}, 0, 0
        rows = columns(entries, 4, count, ("<Q", "<I", "<Q", "<I", "B", "16s", "<Q"))
        for step, pack, gap, length, kind, digest, moved in rows:
            block += step
            offset = (end + gap) % 2**64
            end = (offset + length) % 2**64
            found[block] = (*packs[pack], offset, length, kind, digest, (block + moved) % 2**64)
        return found

    # Section 7 and section 4

    def point(self, identifier: str) -> dict[str, Any]:
        (path,) = self.folder.glob(f"points/*/*-{identifier}")
        point = dict(json.loads(self.envelope(str(path.relative_to(self.folder)))[0]))
        supplements = sorted(self.folder.glob(f"points/*/*-{identifier}.*"))
        if supplements:
            found = json.loads(self.envelope(str(supplements[-1].relative_to(self.folder)))[0])
            if (found["point"], f"{found['number']:08d}") != (identifier, supplements[-1].name[-8:]):
                raise ValueError("another supplement")
            instead = {disk["vdi"]: disk["segments"] for disk in found["disks"]}
            for disk in point["disks"]:
                disk["segments"] = instead.get(disk["vdi"], disk["segments"])
        return point

    def restore(self, identifier: str, vdi: str) -> bytes:
        (disk,) = [disk for disk in self.point(identifier)["disks"] if disk["vdi"] == vdi]
        blocks: dict[int, tuple[Any, ...]] = {}
        for segment in disk["segments"]:  # oldest first: the latest wins
            blocks |= self.segment(segment["key"])
        output = bytearray(disk["virtual_size"])
        for block, (key, origin, offset, length, kind, digest, sealed_as) in blocks.items():
            if kind == 2:
                continue
            text = self.object(key)[offset : offset + length]
            if self.encrypted:
                *place, generation, wrapped = origin
                data_key = HPKE.decrypt(wrapped, self.data_keys[generation], self.binding("data key", *place))
                disk_name, run, _, snapshot = place
                associated = (
                    self.binding("frame", disk_name, run, snapshot) + b"\0" + struct.pack("<Q", sealed_as)
                )
                text = AESGCM(data_key).decrypt(sealed_as.to_bytes(12, "little"), text, associated)
            plain = unzstd(text) if kind == 1 else text
            if self.blake(plain) != digest:
                raise ValueError("hash")
            output[block * BLOCK : block * BLOCK + len(plain)] = plain
        if len(output) != disk["virtual_size"]:
            raise ValueError("a block is longer than its disk")
        return bytes(output)

    # Section 4, from a pack alone, without any segment:
    # [(virtual size, origin, block, offset, length, kind, hash)]

    def pack_index(self, key: str) -> list[tuple[Any, ...]]:
        data = self.object(key)
        if blake3.blake3(data).digest(length=16).hex() != key[-32:]:
            raise ValueError("the pack's hash is not its name")
        footer = data[-184:]
        frames_end, index_length, version, flags = struct.unpack_from("<QIHH", footer, 80)
        if (footer[176:], version, flags, data[:8]) != (b"CBTFTAIL", 1, int(self.encrypted), b"CBTFPACK"):
            raise ValueError("not a pack")
        if any(footer[96:112]) != any(footer[112:176]):
            raise ValueError("half a signature")
        sealed = data[frames_end : frames_end + index_length]
        _, disk, run, name = key.split("/")
        place = disk, run, int(name[:8])
        associated = self.binding("index", *place) + b"\0" + footer[80:96]
        if self.encrypted:
            index_key = HPKE.decrypt(footer[:80], self.metadata_key, self.binding("index key", *place))
            index = unzstd(AESGCM(index_key).decrypt(bytes(12), sealed, associated))
        else:
            index = unzstd(self.unmark(sealed, 0, associated))
        group_count, count = struct.unpack_from("<II", index)
        at, origins = 8, []
        for _ in range(group_count):
            names = []
            for _ in range(3):
                names.append(index[at + 1 : at + 1 + index[at]].decode())
                at += 1 + index[at]
            batch, generation, virtual_size, blocks, wrapped = struct.unpack_from("<IIQI80s", index, at)
            at += 100
            origin = names[0], names[1], batch, names[2], generation, wrapped
            origins += [(virtual_size, origin)] * blocks
        found, offset = [], 16
        rows = columns(index, at, count, ("<Q", "<I", "B", "16s"))
        for group, (block, length, kind, digest) in zip(origins, rows, strict=True):
            if kind > 3 or (length == 0) != (kind >= 2):
                raise ValueError("kind")
            found.append((*group, block, offset, length, kind, digest))
            offset += length
        if offset != frames_end:
            raise ValueError("frames do not end where they should")
        return found

    # Section 9: the hashes of one batch

    def known_hashes(self, key: str, batch: int, snapshot: str) -> list[bytes]:
        _, run, disk, number = key.split("/")
        record = self.object(key)[8240 * (batch - 512 * int(number)) :][:8240]
        salt, sealed = record[:32], record[32:]
        place = self.binding("known", run, disk, batch, snapshot)
        if self.encrypted:
            hashes = AESGCM(hkdf(self.hash_key, place, salt)).decrypt(bytes(12), sealed, None)
        else:
            hashes = self.unmark(sealed, 0, place + b"\0" + salt)
        return [hashes[start : start + 16] for start in range(0, len(hashes), 16)]
