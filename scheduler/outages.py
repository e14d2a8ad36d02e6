"""What somebody who never gives up cannot do at the moment: one line when it begins, one when it is over.

works --fails--> fails: a line --fails--> (no line) --fails in another way--> a line --works--> a line
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from workers.errors import CbtfleetError

log = logging.getLogger(__name__)


@dataclass
class _Outage:
    since: float
    """When it began, on the monotonic clock."""
    logged: set[type[Exception]] = field(default_factory=set)
    """One line a kind of failure: two that alternate must not write a line a try."""


class Outages:
    """Of one thread. `failures` counts every failed try, also those without a line."""

    def __init__(self) -> None:
        self._standing: dict[str, _Outage] = {}
        self.failures = 0

    def __bool__(self) -> bool:
        return bool(self._standing)

    @contextmanager
    def trying(self, task: str) -> Iterator[None]:
        """Does a task that is tried again after a failure; what it raises ends here.

        `task` begins the log line, "counting the hosts of pool lab", and is the same at every try. A failure
        of ours is its line, anything else has its traceback. MemoryError, and what is no Exception, is raised
        on: no further try is better.
        """
        try:
            yield
        except MemoryError:
            raise
        except CbtfleetError as error:
            if self._is_new(task, error):
                log.warning("%s fails: %s; trying again", task, error)
        except Exception as error:
            if self._is_new(task, error):
                log.exception("%s met something unexpected; trying again", task)
        else:
            outage = self._standing.pop(task, None)
            if outage is not None:
                log.info("%s works again, after %.0f s", task, time.monotonic() - outage.since)

    def _is_new(self, task: str, error: Exception) -> bool:
        self.failures += 1
        logged = self._standing.setdefault(task, _Outage(time.monotonic())).logged
        is_new = type(error) not in logged
        logged.add(type(error))
        return is_new
