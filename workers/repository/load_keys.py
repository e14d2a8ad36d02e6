"""Finding the keys for a repository: from its `config` and the key files of the configuration.

Each function checks that the key file belongs to this very repository. An unencrypted repository is refused
while a key file is configured that does not say "no key" for it: whoever can write to the bucket must not be
able to make workers write in the clear.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

from workers.errors import ConfigurationError
from workers.repository.config import Config, PlainConfig, read_config
from workers.repository.create import KEY_FILE_SETTINGS
from workers.repository.key_files import (
    KeyFile,
    MetadataKeyFile,
    NoKeyFile,
    PrivateKeyFile,
    PublicKeyFile,
    read_key_file,
)
from workers.repository.keys import MetadataKeys, PrivateKeys, WorkerKeys
from workers.repository.store import Store
from workers.settings import PASSPHRASE, RepositorySettings, read_secret_file


def load_worker_keys(store: Store, settings: RepositorySettings) -> WorkerKeys:
    """From `public_key_file`. Raises ConfigurationError, also when that file holds another key."""
    config = read_config(store)
    if isinstance(config, PlainConfig):
        return _plain_keys(config, settings).metadata.worker
    file = _read(settings, "public_key_file")
    if isinstance(file, NoKeyFile):
        raise ConfigurationError(
            f"repository.public_key_file: {settings.public_key_file} is for a repository without encryption,"
            " but the one at repository.url is encrypted: it is another repository's file"
        )
    if not isinstance(file, PublicKeyFile):
        kind = "private" if isinstance(file, PrivateKeyFile) else "metadata"
        raise ConfigurationError(
            f"repository.public_key_file: {settings.public_key_file} is the {kind} key; a worker must not"
            " have it: give it the public key file"
        )
    _check_belongs(file, config, "public_key_file")
    return file.keys()


def load_metadata_keys(store: Store, settings: RepositorySettings) -> MetadataKeys:
    """From `metadata_key_file`, or else from the private key, when its passphrase is configured too.

    Raises ConfigurationError.
    """
    config = read_config(store)
    if isinstance(config, PlainConfig):
        return _plain_keys(config, settings).metadata
    if settings.metadata_key_file is None and settings.private_key_file is not None:
        passphrase = configured_passphrase(settings)
        if passphrase is not None:
            return _unlock(config, settings, passphrase).metadata
    file = _read(settings, "metadata_key_file")
    if not isinstance(file, MetadataKeyFile):
        raise ConfigurationError(f"repository.metadata_key_file: {settings.metadata_key_file} is another key")
    _check_belongs(file, config, "metadata_key_file")
    return file.keys()


def load_private_keys(
    store: Store, settings: RepositorySettings, passphrase: Callable[[], str]
) -> PrivateKeys:
    """From `private_key_file`; `passphrase` is asked only when none is configured.

    Raises ConfigurationError.
    """
    config = read_config(store)
    if isinstance(config, PlainConfig):
        return _plain_keys(config, settings)
    _read_private(config, settings)  # a wrong file is said before anyone types a passphrase
    known = configured_passphrase(settings)
    return _unlock(config, settings, passphrase() if known is None else known)


def configured_passphrase(
    settings: RepositorySettings, environ: Mapping[str, str] = os.environ
) -> str | None:
    """From `passphrase_file`, else CBTFLEET_PASSPHRASE, else None. Raises ConfigurationError."""
    if settings.passphrase_file is not None:
        return read_secret_file(settings.passphrase_file, "repository.passphrase_file")
    return environ.get(PASSPHRASE) or None


def _plain_keys(config: PlainConfig, settings: RepositorySettings) -> PrivateKeys:
    for name in KEY_FILE_SETTINGS:
        path: Path | None = getattr(settings, name)
        if path is None:
            continue
        file = read_key_file(path, f"repository.{name}")
        if not isinstance(file, NoKeyFile) or file.repository != config.id:
            raise ConfigurationError(
                f"the repository is not encrypted, but repository.{name} is a key file of another one: remove"
                " the setting if that is meant; if it was encrypted before, someone has changed it"
            )
    return PrivateKeys.plain(config.id, config.hash_key)


def _read(settings: RepositorySettings, name: str) -> KeyFile:
    path = getattr(settings, name)
    if path is None:
        raise ConfigurationError(f"repository.{name} is missing: the repository is encrypted")
    return read_key_file(path, f"repository.{name}")


def _read_private(config: Config, settings: RepositorySettings) -> PrivateKeyFile:
    file = _read(settings, "private_key_file")
    if not isinstance(file, PrivateKeyFile):
        raise ConfigurationError(f"repository.private_key_file: {settings.private_key_file} is another key")
    _check_belongs(file, config, "private_key_file")
    return file


def _unlock(config: Config, settings: RepositorySettings, passphrase: str) -> PrivateKeys:
    return _read_private(config, settings).unlock(passphrase)


def _check_belongs(file: PublicKeyFile | MetadataKeyFile | PrivateKeyFile, config: Config, name: str) -> None:
    if isinstance(config, PlainConfig) or (
        file.repository,
        file.data_public_key,
        file.metadata_public_key,
    ) != (config.id, config.data_public_key, config.metadata_public_key):
        raise ConfigurationError(
            f"repository.{name} belongs to another repository than the one at repository.url"
        )
