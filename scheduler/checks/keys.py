"""Keys: there, for us alone, and of this repository."""

from __future__ import annotations

import stat
from contextlib import closing
from pathlib import Path

from scheduler.checks.check import Check, Subject
from workers.errors import CbtfleetError
from workers.repository import load_metadata_keys, load_worker_keys, open_store
from workers.settings import RepositorySettings

KEYS = Subject("keys")


def check_keys(settings: RepositorySettings) -> list[Check]:
    """Needs the store: only its `config` says whose keys they must be."""
    files = [
        ("key.public", settings.public_key_file, False),
        ("key.metadata", settings.metadata_key_file, True),
        ("key.private", settings.private_key_file, True),
    ]
    found = [check for name, path, secret in files if path for check in check_file(name, path, secret)]
    try:
        with closing(open_store(settings)) as store:
            keys = load_worker_keys(store, settings)
            if not keys.encrypted:
                todo = "nothing, if that was meant; it cannot be changed later"
                return [*found, KEYS.warning("encryption", "this repository is NOT encrypted", todo)]
            found.append(KEYS.ok("keys", "the public key is this repository's"))
            if settings.metadata_key_file is not None and settings.metadata_key_file.exists():
                load_metadata_keys(store, settings)
                found.append(KEYS.ok("keys", "the metadata key is this repository's"))
    except CbtfleetError as error:
        found.append(
            KEYS.failed("keys", str(error), "use the key files that cbtfleet init wrote for this repository")
        )
    if settings.metadata_key_file is None:
        said = "no metadata_key_file: enough for a worker, not for the scheduler"
        found.append(
            KEYS.warning("key.metadata", said, "set repository.metadata_key_file where the scheduler runs")
        )
    if settings.private_key_file is not None and settings.private_key_file.exists():
        said = "the private key is on this machine: whoever takes it and the passphrase reads every backup"
        found.append(KEYS.warning("key.private", said, "keep it where you restore, not where workers run"))
    return found


def check_file(name: str, path: Path, secret: bool) -> list[Check]:
    """A key file that is readable by others is as good as published."""
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
    except FileNotFoundError:
        if name == "key.private":
            return [KEYS.ok(name, f"{path} is not on this machine: restore and verify elsewhere")]
        return [KEYS.failed(name, f"{path} is missing", "copy it from where cbtfleet init wrote it")]
    except OSError as error:
        return [KEYS.failed(name, f"{path}: {error.strerror}", "let this user read it")]
    if secret and mode & 0o077:
        return [KEYS.failed(name, f"{path} can be read by others (mode {mode:04o})", f"chmod 600 {path}")]
    return [KEYS.ok(name, f"{path} (mode {mode:04o})")]
