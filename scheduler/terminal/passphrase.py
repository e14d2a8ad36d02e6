"""Asking a person for the passphrase of the private key, when neither file nor environment holds it.

Never taken from an argument, which every user of the machine could read in the list of processes.
"""

from __future__ import annotations

import getpass
import sys

from workers.errors import ConfigurationError
from workers.repository import configured_passphrase
from workers.settings import RepositorySettings


def ask_passphrase() -> str:
    """The passphrase of an existing key, typed unseen. Raises ConfigurationError without a terminal."""
    return _typed("Passphrase of the private key: ")


def new_passphrase(settings: RepositorySettings) -> str:
    """The passphrase for a new private key: the configured one, else typed twice.

    Raises ConfigurationError when it is empty, when the two differ, and when nobody can be asked.
    """
    given = configured_passphrase(settings)
    if given is not None:
        return given
    first = _typed("New passphrase for the private key: ")
    if first != _typed("The same again: "):
        raise ConfigurationError("the two passphrases differ; nothing was created")
    return first


def _typed(prompt: str) -> str:
    if not sys.stdin.isatty():
        raise ConfigurationError(
            "the private key needs its passphrase: set repository.passphrase_file or CBTFLEET_PASSPHRASE,"
            " or run this on a terminal"
        )
    typed = getpass.getpass(prompt)
    if not typed:
        raise ConfigurationError("the passphrase is empty; a private key needs one")
    return typed
