"""SIGINT, if whoever started us has it ignored: a shell does so for what a script starts in the background.

Ctrl-C at the terminal is meant for that script then, not for us; SIGTERM stops us (docs/adr/0082).
"""

from __future__ import annotations

import signal
from types import FrameType


def interrupts_are_ignored() -> bool:
    """To be asked before anybody, like Celery, takes SIGINT for itself."""
    return signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def drop_interrupt(number: int, frame: FrameType | None) -> None:
    """A handler instead of SIG_IGN, which every program that we start would inherit, like a hook."""
