"""Finding the keys of a repository: in the key files of the configuration, which alone decide.

`config` is compared with them: whoever can write to the bucket must not be able to make workers write in the
clear, or to a key of his own. Who writes stops when it is missing or says something else; who only reads is
told so by `tell`, and goes on. Where no key file is configured at all, the repository is unencrypted, and its
id and hash key are in `config` alone.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

from workers.errors import ConfigurationError
from workers.repository.config import PlainConfig, check_config, read_config
from workers.repository.create import KEY_FILE_SETTINGS
from workers.repository.errors import ConfigUntrue
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

Tell = Callable[[ConfigUntrue], None]
"""Gets what is wrong with `config`, which is then not believed."""


def load_worker_keys(store: Store, settings: RepositorySettings) -> WorkerKeys:
    """From `public_key_file`. Raises ConfigurationError, ConfigUntrue."""
    file = _key_file(settings, "public_key_file")
    if file is None:
        return _keys_by_config(store, "public_key_file").metadata.worker
    if isinstance(file, NoKeyFile):
        worker = file.keys().metadata.worker
    elif isinstance(file, PublicKeyFile):
        worker = file.keys()
    else:
        kind = "private" if isinstance(file, PrivateKeyFile) else "metadata"
        raise ConfigurationError(
            f"repository.public_key_file: {settings.public_key_file} is the {kind} key; a worker must not"
            " have it: give it the public key file"
        )
    check_config(store, worker)
    return worker


def load_metadata_keys(
    store: Store, settings: RepositorySettings, *, tell: Tell | None = None
) -> MetadataKeys:
    """From `metadata_key_file`, or else from the private key, when its passphrase is configured too.

    Raises ConfigurationError, and ConfigUntrue without `tell`.
    """
    file: KeyFile | None = None
    passphrase: str | None = None
    if settings.metadata_key_file is None and settings.private_key_file is not None:
        passphrase = configured_passphrase(settings)
    name = "metadata_key_file" if passphrase is None else "private_key_file"
    file = _key_file(settings, name)
    if file is None:
        return _keys_by_config(store, name).metadata
    if isinstance(file, NoKeyFile):
        keys = file.keys().metadata
    elif isinstance(file, MetadataKeyFile) and passphrase is None:
        keys = file.keys()
    elif isinstance(file, PrivateKeyFile) and passphrase is not None:
        keys = file.unlock(passphrase).metadata
    else:
        raise ConfigurationError(f"repository.{name}: {getattr(settings, name)} is another key")
    _compare_config(store, keys.worker, tell)
    return keys


def load_private_keys(
    store: Store, settings: RepositorySettings, passphrase: Callable[[], str], *, tell: Tell | None = None
) -> PrivateKeys:
    """From `private_key_file`; `passphrase` is asked only when none is configured.

    Raises ConfigurationError, and ConfigUntrue without `tell`.
    """
    file = _key_file(settings, "private_key_file")
    if file is None:
        return _keys_by_config(store, "private_key_file")
    if isinstance(file, NoKeyFile):
        keys = file.keys()
    elif isinstance(file, PrivateKeyFile):  # a wrong file is said before anyone types a passphrase
        worker = file.worker_keys(b"")
        _compare_config(store, worker, tell)
        known = configured_passphrase(settings)
        return file.unlock(passphrase() if known is None else known)
    else:
        raise ConfigurationError(f"repository.private_key_file: {settings.private_key_file} is another key")
    _compare_config(store, keys.metadata.worker, tell)
    return keys


def configured_passphrase(
    settings: RepositorySettings, environ: Mapping[str, str] = os.environ
) -> str | None:
    """From `passphrase_file`, else CBTFLEET_PASSPHRASE, else None. Raises ConfigurationError."""
    if settings.passphrase_file is not None:
        return read_secret_file(settings.passphrase_file, "repository.passphrase_file")
    return environ.get(PASSPHRASE) or None


def _key_file(settings: RepositorySettings, name: str) -> KeyFile | None:
    """The key file of this setting, else any that says "no key"; None when no key file is configured."""
    path: Path | None = getattr(settings, name)
    if path is not None:
        return read_key_file(path, f"repository.{name}")
    others = [other for other in KEY_FILE_SETTINGS if getattr(settings, other) is not None]
    for other in others:
        if getattr(settings, other).exists():
            file = read_key_file(getattr(settings, other), f"repository.{other}")
            if isinstance(file, NoKeyFile):
                return file
    if others:
        raise ConfigurationError(f"repository.{name} is missing: the repository is encrypted")
    return None


def _keys_by_config(store: Store, name: str) -> PrivateKeys:
    config = read_config(store)
    if isinstance(config, PlainConfig):
        return PrivateKeys.plain(config.id, config.hash_key)
    raise ConfigurationError(f"repository.{name} is missing: the repository is encrypted")


def _compare_config(store: Store, keys: WorkerKeys, tell: Tell | None) -> None:
    try:
        check_config(store, keys)
    except ConfigUntrue as error:
        if tell is None:
            raise
        tell(error)
