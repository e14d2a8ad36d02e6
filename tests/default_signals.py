"""What a test starts gets the usual reactions to signals, however the tests themselves were started.

A shell lets what it starts in the background of a script ignore SIGINT, and `exec` hands that on: to pytest,
and to every process that a test starts and means to end by Ctrl-C. A signal that is caught, and not ignored,
has its default again in what is started.
"""

from __future__ import annotations

import signal
from types import FrameType

INHERITED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
"""SIGPIPE, which Python ignores, is left out: subprocess gives it back by itself."""


IN_BACKGROUND = ("sh", "-c", "trap '' INT; exec \"$@\"", "sh")
"""To be put before a command: starts it as a script starts one in the background."""


def catch_what_is_ignored() -> None:
    """To be called in the main thread. Who ignored a signal does not die of it afterwards, either."""
    for number in INHERITED:
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, _drop)


def _drop(number: int, frame: FrameType | None) -> None:
    """Whoever started the tests wanted it ignored."""
