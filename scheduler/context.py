"""What every control step needs, opened once by the scheduler process."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from workers.fleet import Ledger
from workers.repository import Repository
from workers.settings import Settings
from workers.xenapi import Sessions


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
