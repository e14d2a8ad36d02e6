"""Creating a repository and its key files."""

from __future__ import annotations

import os
import uuid
from dataclasses import dataclass, field
from pathlib import Path

from workers.errors import CbtfleetError, ConfigurationError
from workers.repository.config import encode_config, new_config
from workers.repository.durable_files import make_folder
from workers.repository.errors import RepositoryExists
from workers.repository.key_files import (
    SCRYPT_LOG_N,
    KeyFile,
    NoKeyFile,
    metadata_key_file,
    private_key_file,
    public_key_file,
    write_key_file,
)
from workers.repository.keys import SECRET_SIZE, PrivateKeys, WorkerKeys, metadata_secret_of
from workers.repository.naming import CONFIG_KEY
from workers.repository.recovery_key import RecoveryKey, encode_recovery_key
from workers.repository.store import ObjectExists, ObjectMissing, Store, honours_put_if_absent
from workers.settings import RepositorySettings

KEY_FILE_SETTINGS = ("public_key_file", "metadata_key_file", "private_key_file")


@dataclass(frozen=True)
class Created:
    """What `init` did. The recovery key is shown to a person once and kept nowhere."""

    repository_id: str
    recovery_key: str | None = field(repr=False)
    files: tuple[Path, ...]


def create_repository(
    store: Store,
    settings: RepositorySettings,
    *,
    encrypted: bool,
    passphrase: str | None,
    scrypt_log_n: int = SCRYPT_LOG_N,
) -> Created:
    """Creates the key files, then `config`; when the last fails, the key files are removed again.

    An unencrypted repository has no keys; where key files are configured, files that say so are created.

    Raises RepositoryExists; ConfigurationError when a key file's setting is missing, when such a file
    exists already, when the passphrase is empty, or when the store does not honour put-if-absent. Nothing
    has been written then.
    """
    paths = _key_file_paths(settings, encrypted)
    if encrypted and not passphrase:
        raise ConfigurationError("an encrypted repository needs a passphrase for its private key")
    _check_store(store)
    repository = str(uuid.uuid4())
    recovery_key: str | None = None
    files: tuple[KeyFile, ...]
    if encrypted:
        master = os.urandom(SECRET_SIZE)
        recovery_key = encode_recovery_key(RecoveryKey(repository, 0, master))
        worker = PrivateKeys.from_masters(repository, [master]).metadata.worker
        files = (
            public_key_file(worker),
            metadata_key_file(worker, metadata_secret_of(master)),
            private_key_file(worker, [master], passphrase or "", log_n=scrypt_log_n),
        )
    else:
        worker = PrivateKeys.plain(repository, os.urandom(SECRET_SIZE)).metadata.worker
        files = tuple(NoKeyFile(repository=repository, hash_key=worker.hash_key) for _ in paths)
    written: list[Path] = []
    try:
        file: KeyFile
        for path, file in zip(paths, files, strict=True):
            make_folder(path.parent, mode=0o700)
            write_key_file(path, file)
            written.append(path)
        put_config(store, worker)
    except (CbtfleetError, OSError) as error:
        for path in written:
            path.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise ConfigurationError(f"cannot create the key files: {error.strerror}") from error
        raise
    return Created(repository, recovery_key, paths)


def _key_file_paths(settings: RepositorySettings, encrypted: bool) -> tuple[Path, ...]:
    paths: list[Path] = []
    for name in KEY_FILE_SETTINGS:
        path: Path | None = getattr(settings, name)
        if path is None and not encrypted:
            continue
        if path is None:
            raise ConfigurationError(f"repository.{name} is missing: say where to create that key file")
        if path.exists() or path.is_symlink():
            raise ConfigurationError(
                f"repository.{name}: {path} exists already and belongs to some repository;"
                " move it away, or set another path"
            )
        paths.append(path)
    if len(set(paths)) != len(paths):
        raise ConfigurationError(f"{', '.join(KEY_FILE_SETTINGS)} must be three different files")
    return tuple(paths)


def _check_store(store: Store) -> None:
    try:
        store.head(CONFIG_KEY)
    except ObjectMissing:
        pass
    else:
        raise RepositoryExists("there is a repository at this place already; nothing was changed")
    for prefix in ("packs/", "segments/", "points/", "runs/"):
        for info in store.list(prefix):
            raise RepositoryExists(
                f"there is no `config` at this place, but {info.key}: a repository was here; nothing was"
                " changed. `cbtfleet repair-config` puts `config` back with its key files"
            )
    if not honours_put_if_absent(store):
        raise ConfigurationError(
            "this object store overwrites objects in spite of If-None-Match: it is not safe; use another"
        )


def put_config(store: Store, keys: WorkerKeys) -> None:
    """Raises RepositoryExists when there is one."""
    try:
        store.put_if_absent(CONFIG_KEY, encode_config(new_config(keys)))
    except ObjectExists as error:
        raise RepositoryExists("a repository was created at this place by someone else just now") from error
