"""Making again what was lost of a repository: its `config`, or its private key file."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

from workers.errors import ConfigurationError
from workers.repository.config import check_config
from workers.repository.create import put_config
from workers.repository.envelope import open_object
from workers.repository.errors import ConfigUntrue, DamagedObject
from workers.repository.key_files import SCRYPT_LOG_N, private_key_file, write_key_file
from workers.repository.keys import MetadataKeys, PrivateKeys, WorkerKeys
from workers.repository.limits import JSON, get_within
from workers.repository.naming import CONFIG_KEY
from workers.repository.recovery_key import decode_recovery_key
from workers.repository.store import ObjectMissing, Store

_TRIED = 16
"""Objects that `repair_config` tries to open: a few may be damaged or planted."""


def recover_private_key(
    recovery_key: str, path: Path, passphrase: str, *, scrypt_log_n: int = SCRYPT_LOG_N
) -> WorkerKeys:
    """Writes the private key file anew, from the recovery key alone; returns the public part of its keys.

    Raises ConfigurationError when the recovery key is mistyped, or the file exists.
    """
    key = decode_recovery_key(recovery_key)
    if key.generation:
        raise ConfigurationError("this recovery key is of a later generation than this program knows")
    worker = PrivateKeys.from_masters(key.repository, [key.master]).metadata.worker
    write_key_file(path, private_key_file(worker, [key.master], passphrase, log_n=scrypt_log_n))
    return worker


def repair_config(store: Store, keys: MetadataKeys, *, empty: bool = False) -> bool:
    """Puts `config` back as the keys say; False when it was right already.

    Something in the store must open with these keys, so that a wrong address or a folder that is not mounted
    does not become a repository; `empty` says that there is nothing yet. Raises ConfigUntrue otherwise.
    """
    try:
        check_config(store, keys.worker)
        return False
    except ConfigUntrue:
        pass
    if not empty and not _holds_ours(store, keys):
        raise ConfigUntrue(
            f"nothing at repository.url opens with the keys of repository {keys.repository}: check the"
            " address, and that the folder is mounted; for a repository without any run yet, say --empty"
        )
    store.delete(CONFIG_KEY)
    put_config(store, keys.worker)
    return True


def _holds_ours(store: Store, keys: MetadataKeys) -> bool:
    """Whether one of the first few records or points is sealed with these keys."""
    for prefix in ("runs/", "points/"):
        for info in islice(store.list(prefix), _TRIED):
            try:
                open_object(keys, info.key, get_within(store, info.key, JSON.stored), JSON.sections)
            except (DamagedObject, ObjectMissing):
                continue
            return True
    return False
