"""How a process begins that runs for long: without what only a person's command needs."""

from __future__ import annotations

import os
import sys

from workers.settings import PASSPHRASE


def start_without_passphrase() -> None:
    """Becomes the same program without it, if it was started with it.

    The kernel shows the environment of a process's start for as long as it lives, and children inherit it:
    to forget the variable would leave it in both. To be called before anything is opened.
    """
    if PASSPHRASE in os.environ:
        kept = {name: value for name, value in os.environ.items() if name != PASSPHRASE}
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], kept)
