"""A reader that was written from docs/format.md alone, to find out whether that page is enough.

It shares nothing with `workers`, and wants to be short and plain: no speed, no ranges, whole objects only.
`restore(folder, point, disk, key file, passphrase)` gives a disk's bytes, or raises ValueError.
"""

from __future__ import annotations

import base64
import json
import struct
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


def crockford(text: str) -> bytes:
    digits = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
    number = 0
    for digit in text.replace("-", ""):
        number = number * 32 + digits.index(digit)
    return number.to_bytes(35)[:32]


class Reader:
    """Section 3 of the page: config and keys."""

    def __init__(
        self, folder: Path, private_key: Path | None, passphrase: str = "", recovery_key: str | None = None
    ) -> None:
        self.folder = folder
        config = json.loads(self.object("config"))
        self.id, self.encrypted = config["id"], config["encrypted"]
        if not self.encrypted:
            self.hash_key = base64.b64decode(config["hash_key"])
            return
        master = crockford(recovery_key) if recovery_key else self.unlock(private_key, passphrase)
        self.hash_key = hkdf(master, b"cbtfleet 1 block hash")
        self.data_key = X25519PrivateKey.from_private_bytes(hkdf(master, b"cbtfleet 1 data key"))
        metadata = hkdf(master, b"cbtfleet 1 metadata")
        self.metadata_key = X25519PrivateKey.from_private_bytes(hkdf(metadata, b"cbtfleet 1 metadata key"))
        self.seal_key = hkdf(metadata, b"cbtfleet 1 metadata seal")
        for name, key in (("data", self.data_key), ("metadata", self.metadata_key)):
            if key.public_key().public_bytes_raw() != base64.b64decode(config[f"{name}_public_key"]):
                raise ValueError("the key is another repository's")

    def unlock(self, path: Path | None, passphrase: str) -> bytes:
        assert path is not None
        file = json.loads(path.read_text())
        binary = {name: base64.b64decode(value) for name, value in file.items() if isinstance(value, str)
                  and name in ("salt", "sealed", "data_public_key", "metadata_public_key")}  # fmt: skip
        key = Scrypt(binary["salt"], 32, 1 << file["log_n"], file["r"], file["p"]).derive(passphrase.encode())
        public = binary["data_public_key"].hex(), binary["metadata_public_key"].hex()
        return AESGCM(key).decrypt(bytes(12), binary["sealed"], self.binding("private key", *public))

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

    # Section 6: block -> (pack's key, run, batch, wrapped data key, offset, length, kind, hash)

    def segment(self, key: str) -> dict[int, tuple[Any, ...]]:
        table, entries = self.envelope(key)
        run_count, count = struct.unpack_from("<II", table)
        at, runs = 8, []
        for _ in range(run_count):
            runs.append(table[at + 1 : at + 1 + table[at]].decode())
            at += 1 + table[at]
        disk, packs = key.split("/")[1], []
        ends = [at + count * width for width in (0, 4, 8, 24, 32)]
        for row in range(count):
            (run,) = struct.unpack_from("<I", table, ends[0] + 4 * row)
            (batch,) = struct.unpack_from("<I", table, ends[1] + 4 * row)
            digest = table[ends[2] + 16 * row :][:16]
            wrapped = table[ends[4] + 80 * row :][:80]
            packs.append((f"packs/{disk}/{runs[run]}/{batch:08d}-{digest.hex()}", runs[run], batch, wrapped))
        (count, _) = struct.unpack_from("<II", entries)
        column = [8 + count * width for width in (0, 8, 12, 20, 24, 25)]
        found, block, end = {}, 0, 0
        for row in range(count):
            block += struct.unpack_from("<Q", entries, column[0] + 8 * row)[0]
            (pack,) = struct.unpack_from("<I", entries, column[1] + 4 * row)
            (gap,) = struct.unpack_from("<Q", entries, column[2] + 8 * row)
            (length,) = struct.unpack_from("<I", entries, column[3] + 4 * row)
            kind = entries[column[4] + row]
            offset = (end + gap) % 2**64
            end = (offset + length) % 2**64
            found[block] = (*packs[pack], offset, length, kind, entries[column[5] + 16 * row :][:16])
        return found

    # Section 7 and section 4

    def point(self, identifier: str) -> dict[str, Any]:
        (path,) = self.folder.glob(f"points/*/*-{identifier}")
        return dict(json.loads(self.envelope(str(path.relative_to(self.folder)))[0]))

    def restore(self, identifier: str, vdi: str) -> bytes:
        (disk,) = [disk for disk in self.point(identifier)["disks"] if disk["vdi"] == vdi]
        blocks: dict[int, tuple[Any, ...]] = {}
        for segment in disk["segments"]:  # oldest first: the latest wins
            blocks |= self.segment(segment["key"])
        output = bytearray(disk["virtual_size"])
        for block, (key, run, batch, wrapped, offset, length, kind, digest) in blocks.items():
            if kind == 2:
                continue
            text = self.object(key)[offset : offset + length]
            if self.encrypted:
                data_key = HPKE.decrypt(wrapped, self.data_key, self.binding("data key", vdi, run, batch))
                associated = self.binding("frame", vdi, run) + b"\0" + struct.pack("<Q", block)
                text = AESGCM(data_key).decrypt(block.to_bytes(12, "little"), text, associated)
            plain = unzstd(text) if kind == 1 else text
            if self.blake(plain) != digest:
                raise ValueError("hash")
            output[block * BLOCK : block * BLOCK + len(plain)] = plain
        if len(output) != disk["virtual_size"]:
            raise ValueError("a block is longer than its disk")
        return bytes(output)

    # Section 4, from a pack alone, without any segment: (virtual size, [(block, offset, length, kind, hash)])

    def pack_index(self, key: str) -> tuple[int, list[tuple[int, int, int, int, bytes]]]:
        data = self.object(key)
        if blake3.blake3(data).digest(length=16).hex() != key[-32:]:
            raise ValueError("the pack's hash is not its name")
        footer = data[-184:]
        frames_end, index_length, version, flags, magic = struct.unpack("<QIHH8s", footer[160:])
        if (magic, version, flags, data[:8]) != (b"CBTFTAIL", 1, int(self.encrypted), b"CBTFPACK"):
            raise ValueError("not a pack")
        sealed = data[frames_end : frames_end + index_length]
        _, disk, run, name = key.split("/")
        place = disk, run, int(name[:8])
        associated = self.binding("index", *place) + b"\0" + footer
        if self.encrypted:
            index_key = HPKE.decrypt(footer[80:160], self.metadata_key, self.binding("index key", *place))
            index = unzstd(AESGCM(index_key).decrypt(bytes(12), sealed, associated))
        else:
            index = unzstd(self.unmark(sealed, 0, associated))
        virtual_size, count, _ = struct.unpack_from("<QII", index)
        found, offset = [], 16
        for row in range(count):
            (block,) = struct.unpack_from("<Q", index, 16 + 8 * row)
            (length,) = struct.unpack_from("<I", index, 16 + 8 * count + 4 * row)
            digest = index[16 + 13 * count + 16 * row :][:16]
            kind = index[16 + 12 * count + row]
            if kind > 3 or (length == 0) != (kind >= 2):
                raise ValueError("kind")
            found.append((block, offset, length, kind, digest))
            offset += length
        if offset != frames_end:
            raise ValueError("frames do not end where they should")
        return virtual_size, found

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
