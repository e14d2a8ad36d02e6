"""The keys of a repository, and what each holder of them can do.

    master secret --HKDF--> data private key      PrivateKeys    read frames: restore, verify
                  --HKDF--> metadata secret       MetadataKeys   read pack indexes, write segments and points,
                                                                 sign orders
                  --HKDF--> block-hash key        WorkerKeys     write packs, read nothing

A later generation of the data key comes from a master secret of its own; the rest stays generation 0's.

Each later one includes the earlier: `MetadataKeys.worker`, `PrivateKeys.metadata`. In an unencrypted
repository all three are there without any secret. No repr ever shows a secret.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

SECRET_SIZE = 32
MAX_GENERATION = 255
WRAPPED_SIZE = 80
"""An HPKE-wrapped key of 32 bytes: 32 encapsulated key, 32 text, 16 tag."""

NO_WRAPPED_KEY = bytes(WRAPPED_SIZE)
"""What stands in place of a wrapped key in an unencrypted repository."""

_SUITE = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)


class WrongKey(Exception):
    """A wrapped key does not open: it is damaged, or from elsewhere. Callers know the object and say so."""


def derive(secret: bytes, info: bytes, salt: bytes | None = None) -> bytes:
    """32 bytes by HKDF-SHA256."""
    return HKDF(hashes.SHA256(), SECRET_SIZE, salt, info).derive(secret)


def wrap(secret: bytes, public_key: bytes, info: bytes) -> bytes:
    """32 secret bytes, HPKE-sealed to an X25519 public key: 80 bytes."""
    return _SUITE.encrypt(secret, X25519PublicKey.from_public_bytes(public_key), info)


def unwrap(wrapped: bytes, private_key: bytes, info: bytes) -> bytes:
    """The inverse of `wrap`. Raises WrongKey."""
    try:
        secret = _SUITE.decrypt(wrapped, X25519PrivateKey.from_private_bytes(private_key), info)
    except (InvalidTag, ValueError) as error:
        raise WrongKey("a wrapped key does not open with this repository's key") from error
    if len(secret) != SECRET_SIZE:
        raise WrongKey("a wrapped key has the wrong size")
    return secret


def public_of(private_key: bytes) -> bytes:
    return X25519PrivateKey.from_private_bytes(private_key).public_key().public_bytes_raw()


def order_public_of(private_key: bytes) -> bytes:
    return Ed25519PrivateKey.from_private_bytes(private_key).public_key().public_bytes_raw()


@dataclass(frozen=True)
class WorkerKeys:
    """Enough to write packs. The public keys are 32 bytes, X25519 and (of orders) Ed25519, empty when not
    `encrypted`; `generation` is that of the data key.

    `hash_key` keys the hashes of plain blocks; in an unencrypted repository also the checksums in place of
    tags, and there it is no secret.
    """

    repository: str
    encrypted: bool
    generation: int
    data_public_key: bytes
    metadata_public_key: bytes
    order_public_key: bytes
    hash_key: bytes = field(repr=False)


@dataclass(frozen=True)
class MetadataKeys:
    """Enough to read pack indexes, to read and write segments, points, bitmaps and run records, and to sign
    orders."""

    worker: WorkerKeys
    private_key: bytes = field(repr=False)
    seal_key: bytes = field(repr=False)
    order_key: bytes = field(repr=False)

    @property
    def repository(self) -> str:
        return self.worker.repository

    @property
    def encrypted(self) -> bool:
        return self.worker.encrypted

    @classmethod
    def from_secret(cls, worker: WorkerKeys, metadata_secret: bytes) -> MetadataKeys:
        infos = (b"cbtfleet 1 metadata key", b"cbtfleet 1 metadata seal", b"cbtfleet 1 orders")
        return cls(worker, *(derive(metadata_secret, info) for info in infos))


@dataclass(frozen=True)
class PrivateKeys:
    """Enough to read everything. `data_keys` are the private ones, by generation."""

    metadata: MetadataKeys
    data_keys: tuple[bytes, ...] = field(repr=False)

    @property
    def repository(self) -> str:
        return self.metadata.repository

    @property
    def encrypted(self) -> bool:
        return self.metadata.encrypted

    @classmethod
    def from_masters(cls, repository: str, masters: Sequence[bytes]) -> PrivateKeys:
        """All keys of an encrypted repository, from its master secrets (32 bytes each) by generation."""
        data_keys = tuple(derive(master, b"cbtfleet 1 data key") for master in masters)
        metadata_secret = metadata_secret_of(masters[0])
        worker = WorkerKeys(
            repository,
            encrypted=True,
            generation=len(masters) - 1,
            data_public_key=public_of(data_keys[-1]),
            metadata_public_key=public_of(derive(metadata_secret, b"cbtfleet 1 metadata key")),
            order_public_key=order_public_of(derive(metadata_secret, b"cbtfleet 1 orders")),
            hash_key=derive(masters[0], b"cbtfleet 1 block hash"),
        )
        return cls(MetadataKeys.from_secret(worker, metadata_secret), data_keys)

    @classmethod
    def plain(cls, repository: str, hash_key: bytes) -> PrivateKeys:
        """The keys, so to say, of an unencrypted repository: `hash_key` lies in its `config`."""
        worker = WorkerKeys(repository, False, 0, b"", b"", b"", hash_key)
        return cls(MetadataKeys(worker, b"", b"", b""), (b"",))


def metadata_secret_of(master: bytes) -> bytes:
    return derive(master, b"cbtfleet 1 metadata")


def metadata_of(keys: MetadataKeys | PrivateKeys) -> MetadataKeys:
    return keys.metadata if isinstance(keys, PrivateKeys) else keys
