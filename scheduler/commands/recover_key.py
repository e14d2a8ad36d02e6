"""`cbtfleet recover-key`: makes the private key file again from the recovery key."""

from __future__ import annotations

import getpass
import sys
from contextlib import closing

import typer

from scheduler.commands.invocation import ConfigOption, Invocation, JsonOption, tell
from scheduler.terminal.passphrase import new_passphrase
from workers.errors import CbtfleetError, ConfigurationError
from workers.repository import check_config, open_store, recover_private_key


def recover_key(context: typer.Context, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Write the private key file again from the recovery key, under a new passphrase."""
    invocation = Invocation.of(context, config, as_json)
    settings = invocation.settings().repository
    path = settings.private_key_file
    if path is None:
        raise ConfigurationError("repository.private_key_file is missing: say where to write the key")
    keys = recover_private_key(_recovery_key(), path, new_passphrase(settings))
    try:
        with closing(open_store(settings)) as store:
            check_config(store, keys)
    except CbtfleetError as error:  # the key is right all the same: it says which repository's it is
        tell(error)
    invocation.answer({"file": str(path)}, lambda console: console.print(f"Wrote {path}.", markup=False))


def _recovery_key() -> str:
    """Typed unseen on a terminal, else the first line of stdin."""
    key = getpass.getpass("Recovery key: ") if sys.stdin.isatty() else sys.stdin.readline()
    if not key.strip():
        raise ConfigurationError("no recovery key was given; nothing was written")
    return key.strip()
