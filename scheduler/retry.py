"""Trying again what failed for a reason that passes: a pool, a store that is away for a moment."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TypeVar

from workers.repository import StoreUnavailable
from workers.xenapi import AnswerLost, PoolUnreachable, SessionLost

log = logging.getLogger(__name__)

T = TypeVar("T")

TRANSIENT = (StoreUnavailable, PoolUnreachable, SessionLost, AnswerLost)

PAUSES = (1.0, 5.0, 15.0)
"""Seconds before each new try."""


def with_retries(work: Callable[[], T], go_on: Callable[[], bool] = lambda: True) -> T:
    """What `work` returns; it must be safe to repeat. Raises what the last try raises.

    `go_on` is asked before each new try: where it says no there is none.
    """
    for pause in PAUSES:
        try:
            return work()
        except TRANSIENT as error:
            log.warning("%s; trying again in %.0f s", error, pause)
            time.sleep(pause)
            if not go_on():
                raise
    return work()
