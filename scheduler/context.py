"""What every control step needs, opened once by the scheduler process."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

from workers.fleet import Ledger
from workers.repository import Repository
from workers.settings import Settings
from workers.xenapi import Sessions

MOST_KEPT = 8

T = TypeVar("T")


class ReadOnce:
    """The last few values that this process has read, of those that never change. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._values: OrderedDict[str, Any] = OrderedDict()

    def get(self, name: str, read: Callable[[], T]) -> T:
        """What `read` returned the first time, or returns now. Nothing is kept of what it raises."""
        with self._lock:
            if name in self._values:
                self._values.move_to_end(name)
                known: T = self._values[name]
                return known
        value = read()
        with self._lock:
            self._values[name] = value
            while len(self._values) > MOST_KEPT:
                self._values.popitem(last=False)
        return value


@dataclass(frozen=True)
class ControlContext:
    settings: Settings
    ledger: Ledger
    repository: Repository
    owner: str
    """This process's name in the ledger."""

    @cached_property
    def sessions(self) -> Sessions:
        """Of this process with the pools; whoever made the context closes them."""
        return Sessions(self.settings)

    @cached_property
    def read_once(self) -> ReadOnce:
        return ReadOnce()
