"""AES-256-GCM, or, in an unencrypted repository, a keyed checksum in the place of the tag.

Both give `text | 16 bytes`, so everything that is sealed has one layout. The checksum finds rot and
mix-ups; it stops no one who wants to change a backup, because its key lies in `config`.
"""

from __future__ import annotations

import hmac

from blake3 import blake3
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from workers.repository.store import Buffer

TAG_SIZE = 16
NONCE_SIZE = 12


class SealBroken(Exception):
    """Not what was sealed, or not here, or not with this key. Callers know the object and say so."""


def seal(key: bytes, nonce: int, plain: Buffer, associated: bytes) -> bytes:
    return AESGCM(key).encrypt(nonce.to_bytes(NONCE_SIZE, "little"), plain, associated)


def unseal(key: bytes, nonce: int, sealed: Buffer, associated: bytes) -> bytes:
    """The inverse of `seal`. Raises SealBroken."""
    try:
        return AESGCM(key).decrypt(nonce.to_bytes(NONCE_SIZE, "little"), sealed, associated)
    except (InvalidTag, ValueError) as error:
        raise SealBroken("its seal is broken: changed, cut, or from another place") from error


def mark(hash_key: bytes, nonce: int, plain: Buffer, associated: bytes) -> bytes:
    """`seal` for unencrypted repositories: the text itself, and a keyed checksum."""
    return bytes(plain) + _checksum(hash_key, nonce, plain, associated)


def unmark(hash_key: bytes, nonce: int, marked: Buffer, associated: bytes) -> bytes:
    """The inverse of `mark`. Raises SealBroken."""
    plain = bytes(marked[:-TAG_SIZE])
    if not hmac.compare_digest(_checksum(hash_key, nonce, plain, associated), bytes(marked[-TAG_SIZE:])):
        raise SealBroken("its checksum does not match: changed, cut, or from another place")
    return plain


def _checksum(hash_key: bytes, nonce: int, plain: Buffer, associated: bytes) -> bytes:
    hasher = blake3(associated, key=hash_key)
    hasher.update(nonce.to_bytes(NONCE_SIZE, "little"))
    hasher.update(plain)
    return hasher.digest(length=TAG_SIZE)
