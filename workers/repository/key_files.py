"""Key files: JSON, mode 0600, created once and never overwritten.

public     what a worker needs         metadata   what the scheduler needs
private    the master secrets, under a passphrase: restore and verify
no key     says that the repository is not encrypted, which one it is, and what its checksums are keyed with

They decide what the repository's id and keys are: `config`, in the bucket, is only compared with them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from cryptography.hazmat.primitives.kdf.scrypt import Scrypt
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    ValidationInfo,
    field_validator,
)

from workers.errors import ConfigurationError
from workers.repository.config import KeyBytes, RepositoryId, base64_bytes, binary
from workers.repository.durable_files import FileNotWritten, TargetExists, write_file
from workers.repository.keys import (
    MAX_GENERATION,
    SECRET_SIZE,
    MetadataKeys,
    PrivateKeys,
    WorkerKeys,
    order_public_of,
    public_of,
)
from workers.repository.naming import binding
from workers.repository.sealing import TAG_SIZE, SealBroken, seal, unseal

SCRYPT_LOG_N = 17
"""128 MiB and about 0.3 s a guess: what OWASP recommends for scrypt with r = 8, p = 1."""

_MAX_LOG_N = 20

_MAX_FILE = 64 << 10


class _File(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True, hide_input_in_errors=True)

    version: Literal[1] = 1
    repository: RepositoryId
    generation: Annotated[int, Field(ge=0, le=MAX_GENERATION)]
    data_public_key: KeyBytes
    metadata_public_key: KeyBytes
    order_public_key: KeyBytes

    def worker_keys(self, hash_key: bytes) -> WorkerKeys:
        return WorkerKeys(
            self.repository,
            True,
            self.generation,
            self.data_public_key,
            self.metadata_public_key,
            self.order_public_key,
            hash_key,
        )


class PublicKeyFile(_File):
    format: Literal["cbtfleet public key"] = "cbtfleet public key"
    hash_key: KeyBytes = Field(repr=False)

    def keys(self) -> WorkerKeys:
        return self.worker_keys(self.hash_key)


class MetadataKeyFile(_File):
    format: Literal["cbtfleet metadata key"] = "cbtfleet metadata key"
    hash_key: KeyBytes = Field(repr=False)
    metadata_secret: KeyBytes = Field(repr=False)

    def keys(self) -> MetadataKeys:
        """Raises ConfigurationError when the file contradicts itself."""
        keys = MetadataKeys.from_secret(self.worker_keys(self.hash_key), self.metadata_secret)
        derived = public_of(keys.private_key), order_public_of(keys.order_key)
        if derived != (self.metadata_public_key, self.order_public_key):
            raise ConfigurationError("the metadata key file is damaged: its keys do not belong together")
        return keys


class PrivateKeyFile(_File):
    format: Literal["cbtfleet private key"] = "cbtfleet private key"
    kdf: Literal["scrypt"] = "scrypt"
    log_n: Annotated[int, Field(ge=10, le=_MAX_LOG_N)]
    r: Annotated[int, Field(ge=1, le=16)]
    p: Annotated[int, Field(ge=1, le=16)]
    salt: Annotated[bytes, *binary(16)]
    sealed: Annotated[bytes, *base64_bytes()]

    @field_validator("sealed")
    @classmethod
    def _one_secret_a_generation(cls, sealed: bytes, info: ValidationInfo) -> bytes:
        if len(sealed) != SECRET_SIZE * (info.data.get("generation", 0) + 1) + TAG_SIZE:
            raise ValueError("it has another size than its generations need")
        return sealed

    def masters(self, passphrase: str) -> list[bytes]:
        """The master secrets by generation. Raises ConfigurationError when the passphrase is wrong."""
        key = _stretch(passphrase, self.salt, self.log_n, self.r, self.p)
        try:
            secrets = unseal(key, 0, self.sealed, _private_binding(self))
        except SealBroken as error:
            raise ConfigurationError(
                "wrong passphrase for the private key file (or the file is damaged)"
            ) from error
        return [secrets[start : start + SECRET_SIZE] for start in range(0, len(secrets), SECRET_SIZE)]

    def unlock(self, passphrase: str) -> PrivateKeys:
        """All the keys. Raises ConfigurationError when the passphrase is wrong."""
        keys = PrivateKeys.from_masters(self.repository, self.masters(passphrase))
        if self.worker_keys(keys.metadata.worker.hash_key) != keys.metadata.worker:
            raise ConfigurationError("the private key file is damaged: its public keys are others'")
        return keys


class NoKeyFile(BaseModel):
    """Stands where a key file is configured for an unencrypted repository.

    With it the configuration says "unencrypted is meant". Whoever can write to the bucket cannot forge it, so
    nobody there can make the workers of an encrypted repository write in the clear.
    """

    model_config = ConfigDict(extra="ignore", frozen=True, hide_input_in_errors=True)

    format: Literal["cbtfleet no key"] = "cbtfleet no key"
    version: Literal[1] = 1
    repository: RepositoryId
    hash_key: KeyBytes

    def keys(self) -> PrivateKeys:
        return PrivateKeys.plain(self.repository, self.hash_key)


KeyFile = PublicKeyFile | MetadataKeyFile | PrivateKeyFile | NoKeyFile
_KEY_FILE: TypeAdapter[KeyFile] = TypeAdapter(Annotated[KeyFile, Field(discriminator="format")])


def public_key_file(keys: WorkerKeys) -> PublicKeyFile:
    return PublicKeyFile.model_validate(_public_facts(keys) | {"hash_key": keys.hash_key})


def metadata_key_file(keys: WorkerKeys, metadata_secret: bytes) -> MetadataKeyFile:
    secrets = {"hash_key": keys.hash_key, "metadata_secret": metadata_secret}
    return MetadataKeyFile.model_validate(_public_facts(keys) | secrets)


def private_key_file(
    keys: WorkerKeys, masters: Sequence[bytes], passphrase: str, *, log_n: int = SCRYPT_LOG_N
) -> PrivateKeyFile:
    """The master secrets, by generation, under a passphrase. Raises ConfigurationError when that is empty."""
    if not passphrase:
        raise ConfigurationError("the passphrase of the private key must not be empty")
    facts = _public_facts(keys) | {"log_n": log_n, "r": 8, "p": 1}
    salt = os.urandom(16)
    secrets = b"".join(masters)
    blank = PrivateKeyFile.model_validate(facts | {"salt": salt, "sealed": secrets + bytes(TAG_SIZE)})
    sealed = seal(_stretch(passphrase, salt, log_n, 8, 1), 0, secrets, _private_binding(blank))
    return PrivateKeyFile.model_validate(facts | {"salt": salt, "sealed": sealed})


def write_key_file(path: Path, file: KeyFile) -> None:
    """Creates the file with mode 0600. Raises ConfigurationError when it exists or cannot be written."""
    try:
        write_file(path, file.model_dump_json(indent=2).encode() + b"\n")
    except TargetExists as error:
        raise ConfigurationError(f"{path} exists already; key files are never overwritten") from error
    except FileNotWritten as error:
        raise ConfigurationError(f"cannot create the key file: {error}") from error


def read_key_file(path: Path, setting: str) -> KeyFile:
    """Any of the four kinds. Raises ConfigurationError that names `setting`; no content is repeated."""
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_FILE + 1)
    except FileNotFoundError as error:
        raise ConfigurationError(
            f"{setting}: cannot read {path}: no such file; copy it from where `cbtfleet init` wrote it, or"
            " create the repository with `cbtfleet init`"
        ) from error
    except OSError as error:
        raise ConfigurationError(f"{setting}: cannot read {path}: {error.strerror}") from error
    if len(data) > _MAX_FILE:
        raise ConfigurationError(f"{setting}: {path} is too large to be a key file")
    try:
        return _KEY_FILE.validate_python(json.loads(data))
    except ValidationError as error:
        where = error.errors(include_input=False)[0]["loc"]
        what = str(where[-1]) if where else "format"
        raise ConfigurationError(f"{setting}: {path} is not a key file of ours: {what} is wrong") from error
    except ValueError as error:
        raise ConfigurationError(f"{setting}: {path} is not a key file of ours") from error


def _stretch(passphrase: str, salt: bytes, log_n: int, r: int, p: int) -> bytes:
    try:
        return Scrypt(salt, SECRET_SIZE, n=1 << log_n, r=r, p=p).derive(passphrase.encode())
    except MemoryError as error:
        raise ConfigurationError("not enough memory to open the private key file") from error


def _private_binding(file: _File) -> bytes:
    return binding("private key", file.repository, file.generation)


def _public_facts(keys: WorkerKeys) -> dict[str, object]:
    return {
        "repository": keys.repository,
        "generation": keys.generation,
        "data_public_key": keys.data_public_key,
        "metadata_public_key": keys.metadata_public_key,
        "order_public_key": keys.order_public_key,
    }
