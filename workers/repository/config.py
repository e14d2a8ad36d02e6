"""`config`: the one object that is not sealed. It says which repository this is, and decides nothing.

Id and keys are in the key files; `config` is compared with them. It decides only where no key file is
configured: of an unencrypted repository.
"""

from __future__ import annotations

import base64
import json
import uuid
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, PlainSerializer, ValidationError

from workers.repository.errors import ConfigUntrue, DamagedObject, RepositoryMissing
from workers.repository.keys import SECRET_SIZE, WorkerKeys
from workers.repository.limits import CONFIG, get_within
from workers.repository.naming import CONFIG_KEY
from workers.repository.store import ObjectMissing, Store


def _from_base64(value: object) -> object:
    return base64.b64decode(value, validate=True) if isinstance(value, str) else value


def base64_bytes() -> Any:
    """The annotations of a field of bytes: base64 in JSON, bytes or base64 when made."""
    return (
        BeforeValidator(_from_base64),
        PlainSerializer(lambda value: base64.b64encode(value).decode(), return_type=str),
    )


def binary(length: int) -> Any:
    """The same, of exactly `length` bytes."""

    def check(value: bytes) -> bytes:
        if len(value) != length:
            raise ValueError(f"it must have {length} bytes")
        return value

    return (*base64_bytes(), AfterValidator(check))


def _is_uuid(value: str) -> str:
    if str(uuid.UUID(value)) != value:
        raise ValueError("not a uuid in its usual form")
    return value


KeyBytes = Annotated[bytes, *binary(SECRET_SIZE)]

RepositoryId = Annotated[str, AfterValidator(_is_uuid)]


class EncryptedConfig(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)

    format: Literal["cbtfleet repository"]
    version: Literal[1]
    id: RepositoryId
    created: str
    encrypted: Literal[True]
    metadata_public_key: KeyBytes
    order_public_key: KeyBytes

    def is_of(self, keys: WorkerKeys) -> bool:
        own = (self.id, True, self.metadata_public_key, self.order_public_key)
        return own == (keys.repository, keys.encrypted, keys.metadata_public_key, keys.order_public_key)


class PlainConfig(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)

    format: Literal["cbtfleet repository"]
    version: Literal[1]
    id: RepositoryId
    created: str
    encrypted: Literal[False]
    hash_key: KeyBytes

    def is_of(self, keys: WorkerKeys) -> bool:
        return (self.id, False, self.hash_key) == (keys.repository, keys.encrypted, keys.hash_key)


Config = EncryptedConfig | PlainConfig
"""`encrypted` tells which of the two it is."""


def new_config(keys: WorkerKeys) -> Config:
    """The `config` of a repository that is being created, or whose `config` was lost."""
    created = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    facts = {"format": "cbtfleet repository", "version": 1, "id": keys.repository, "created": created}
    if keys.encrypted:
        public = {"metadata_public_key": keys.metadata_public_key, "order_public_key": keys.order_public_key}
        return EncryptedConfig.model_validate(facts | {"encrypted": True} | public)
    return PlainConfig.model_validate(facts | {"encrypted": False} | {"hash_key": keys.hash_key})


def encode_config(config: Config) -> bytes:
    return config.model_dump_json(indent=2).encode() + b"\n"


def read_config(store: Store) -> Config:
    """Raises RepositoryMissing when the store holds no repository, DamagedObject when it is not ours."""
    try:
        data = get_within(store, CONFIG_KEY, CONFIG)
    except ObjectMissing as error:
        raise RepositoryMissing(
            "there is no repository at this place: check repository.url, or create one with `cbtfleet init`"
        ) from error
    try:
        facts = json.loads(data)
        version = facts["version"] if facts["format"] == "cbtfleet repository" else None
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise DamagedObject(CONFIG_KEY, "it does not describe a cbtfleet repository") from error
    if isinstance(version, int) and version > 1:
        raise RepositoryMissing(f"the repository has version {version}: this program reads version 1 only")
    try:
        model = PlainConfig if facts.get("encrypted") is False else EncryptedConfig
        return model.model_validate(facts)
    except ValidationError as error:
        where = ".".join(map(str, error.errors(include_input=False)[0]["loc"]))
        raise DamagedObject(CONFIG_KEY, f"{where} is missing or wrong") from error


def check_config(store: Store, keys: WorkerKeys) -> None:
    """Raises ConfigUntrue when `config` is missing, damaged, or says something else than the key files."""
    try:
        is_ours = read_config(store).is_of(keys)
    except RepositoryMissing as error:
        if isinstance(error.__cause__, ObjectMissing):
            raise ConfigUntrue(
                f"`config` of repository {keys.repository} is not at repository.url: check the address, and"
                " that the folder is mounted; if it was lost, `cbtfleet repair-config` puts it back"
            ) from error
        raise ConfigUntrue(f"`config` is not believed: {error}") from error
    except DamagedObject as error:
        raise ConfigUntrue(f"{error}; `cbtfleet repair-config` puts it back") from error
    if not is_ours:
        raise ConfigUntrue(
            "`config` at repository.url says something else than the key files: they belong to another"
            " repository (then correct repository.url or the key files), or someone has changed it (then"
            " `cbtfleet repair-config` puts it back)"
        )
