"""`config`: the one object that is not sealed, and that says what the repository is."""

from __future__ import annotations

import base64
import json
import uuid
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, PlainSerializer, ValidationError

from workers.repository.errors import DamagedObject, RepositoryMissing
from workers.repository.keys import SECRET_SIZE, WorkerKeys
from workers.repository.limits import CONFIG, get_within
from workers.repository.naming import CONFIG_KEY
from workers.repository.store import ObjectMissing, Store


def _from_base64(value: object) -> object:
    return base64.b64decode(value, validate=True) if isinstance(value, str) else value


def binary(length: int) -> Any:
    """The annotations of a field of exactly `length` bytes: base64 in JSON, bytes or base64 when made."""

    def check(value: bytes) -> bytes:
        if len(value) != length:
            raise ValueError(f"it must have {length} bytes")
        return value

    return (
        BeforeValidator(_from_base64),
        AfterValidator(check),
        PlainSerializer(lambda value: base64.b64encode(value).decode(), return_type=str),
    )


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
    data_public_key: KeyBytes
    metadata_public_key: KeyBytes


class PlainConfig(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)

    format: Literal["cbtfleet repository"]
    version: Literal[1]
    id: RepositoryId
    created: str
    encrypted: Literal[False]
    hash_key: KeyBytes


Config = EncryptedConfig | PlainConfig
"""`encrypted` tells which of the two it is."""


def new_config(keys: WorkerKeys) -> Config:
    """The configuration of a repository that is being created."""
    created = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    facts = {"format": "cbtfleet repository", "version": 1, "id": keys.repository, "created": created}
    if keys.encrypted:
        public = {"data_public_key": keys.data_public_key, "metadata_public_key": keys.metadata_public_key}
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
    except (ValueError, TypeError, KeyError) as error:
        raise DamagedObject(CONFIG_KEY, "it does not describe a cbtfleet repository") from error
    if isinstance(version, int) and version > 1:
        raise RepositoryMissing(f"the repository has version {version}: this program reads version 1 only")
    try:
        model = PlainConfig if facts.get("encrypted") is False else EncryptedConfig
        return model.model_validate(facts)
    except ValidationError as error:
        where = ".".join(map(str, error.errors(include_input=False)[0]["loc"]))
        raise DamagedObject(CONFIG_KEY, f"{where} is missing or wrong") from error
