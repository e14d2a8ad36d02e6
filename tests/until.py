"""Waiting in tests for what nobody announces."""

from __future__ import annotations

import time
from collections.abc import Callable


def until(true: Callable[[], object], timeout: float = 20) -> None:
    """Returns as soon as `true` is; fails after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while not true():
        assert time.monotonic() < deadline, "it never became true"
        time.sleep(0.01)
