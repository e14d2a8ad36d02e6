"""Where the passphrase of the private key comes from: a file, the environment, else the person.

Never from an argument, which every user of the machine could read in the list of processes.
"""

from __future__ import annotations

import getpass
import os
import sys
from collections.abc import Callable, Mapping

from workers.errors import ConfigurationError
from workers.settings import RepositorySettings, read_secret_file

VARIABLE = "CBTFLEET_PASSPHRASE"


def passphrase_source(
    settings: RepositorySettings, environ: Mapping[str, str] = os.environ
) -> Callable[[], str]:
    """Asks only when it is called, so that an unencrypted repository never prompts.

    The call raises ConfigurationError when there is neither file, variable nor terminal.
    """
    return lambda: _given(settings, environ) or _typed("Passphrase of the private key: ")


def new_passphrase(settings: RepositorySettings, environ: Mapping[str, str] = os.environ) -> str:
    """The passphrase for a new private key: as above, but typed twice. Raises ConfigurationError."""
    given = _given(settings, environ)
    if given is not None:
        return given
    first = _typed("New passphrase for the private key: ")
    if first != _typed("The same again: "):
        raise ConfigurationError("the two passphrases differ; nothing was created")
    return first


def _given(settings: RepositorySettings, environ: Mapping[str, str]) -> str | None:
    if settings.passphrase_file is not None:
        return read_secret_file(settings.passphrase_file, "repository.passphrase_file")
    if VARIABLE in environ:
        if not environ[VARIABLE]:
            raise ConfigurationError(f"{VARIABLE} is empty; a private key needs a passphrase")
        return environ[VARIABLE]
    return None


def _typed(prompt: str) -> str:
    if not sys.stdin.isatty():
        raise ConfigurationError(
            f"the private key needs its passphrase: set repository.passphrase_file or {VARIABLE},"
            " or run this on a terminal"
        )
    typed = getpass.getpass(prompt)
    if not typed:
        raise ConfigurationError("the passphrase is empty; a private key needs one")
    return typed
