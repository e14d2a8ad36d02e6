"""The keys of a repository, and what each holder of them can do.

    master secret --HKDF--> data private key      PrivateKeys    read frames: restore, verify
                  --HKDF--> metadata secret       MetadataKeys   read pack indexes, write segments and points
                  --HKDF--> block-hash key        WorkerKeys     write packs, read nothing

Each later one includes the earlier: `MetadataKeys.worker`, `PrivateKeys.metadata`. In an unencrypted
repository all three are there without any secret. No repr ever shows a secret.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

SECRET_SIZE = 32
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


@dataclass(frozen=True)
class WorkerKeys:
    """Enough to write packs. The public keys are X25519, 32 bytes, empty when not `encrypted`.

    `hash_key` keys the hashes of plain blocks; in an unencrypted repository also the checksums in place of
    tags, and there it is no secret.
    """

    repository: str
    encrypted: bool
    data_public_key: bytes
    metadata_public_key: bytes
    hash_key: bytes = field(repr=False)


@dataclass(frozen=True)
class MetadataKeys:
    """Enough to read pack indexes and to read and write segments, points, bitmaps and run records."""

    worker: WorkerKeys
    private_key: bytes = field(repr=False)
    seal_key: bytes = field(repr=False)

    @property
    def repository(self) -> str:
        return self.worker.repository

    @property
    def encrypted(self) -> bool:
        return self.worker.encrypted

    @classmethod
    def from_secret(cls, worker: WorkerKeys, metadata_secret: bytes) -> MetadataKeys:
        private_key = derive(metadata_secret, b"cbtfleet 1 metadata key")
        return cls(worker, private_key, derive(metadata_secret, b"cbtfleet 1 metadata seal"))


@dataclass(frozen=True)
class PrivateKeys:
    """Enough to read everything."""

    metadata: MetadataKeys
    private_key: bytes = field(repr=False)

    @property
    def repository(self) -> str:
        return self.metadata.repository

    @property
    def encrypted(self) -> bool:
        return self.metadata.encrypted

    @classmethod
    def from_master(cls, repository: str, master: bytes) -> PrivateKeys:
        """All keys of an encrypted repository, from its master secret of 32 bytes."""
        private_key = derive(master, b"cbtfleet 1 data key")
        metadata_secret = metadata_secret_of(master)
        worker = WorkerKeys(
            repository,
            encrypted=True,
            data_public_key=public_of(private_key),
            metadata_public_key=public_of(derive(metadata_secret, b"cbtfleet 1 metadata key")),
            hash_key=derive(master, b"cbtfleet 1 block hash"),
        )
        return cls(MetadataKeys.from_secret(worker, metadata_secret), private_key)

    @classmethod
    def plain(cls, repository: str, hash_key: bytes) -> PrivateKeys:
        """The keys, so to say, of an unencrypted repository: `hash_key` lies in its `config`."""
        worker = WorkerKeys(repository, False, b"", b"", hash_key)
        return cls(MetadataKeys(worker, b"", b""), b"")


def metadata_secret_of(master: bytes) -> bytes:
    return derive(master, b"cbtfleet 1 metadata")


def metadata_of(keys: MetadataKeys | PrivateKeys) -> MetadataKeys:
    return keys.metadata if isinstance(keys, PrivateKeys) else keys
