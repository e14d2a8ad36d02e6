"""Waiting in tests for what nobody announces."""

from __future__ import annotations

import time
from collections.abc import Callable

PATIENCE = 60.0
"""Seconds after which a test fails: many times what a machine needs that has nothing else to do."""


def until(
    true: Callable[[], object],
    timeout: float = PATIENCE,
    report: Callable[[], str] = lambda: "it never became true",
) -> None:
    """Returns as soon as `true` is; fails after `timeout` seconds, with what `report` says then."""
    deadline = time.monotonic() + timeout
    while not true():
        assert time.monotonic() < deadline, report()
        time.sleep(0.01)
