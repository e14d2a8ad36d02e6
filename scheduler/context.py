"""What every control step needs, opened once by the scheduler process."""

from __future__ import annotations

from dataclasses import dataclass

from workers.fleet import Ledger
from workers.repository import Repository
from workers.settings import Settings


@dataclass(frozen=True)
class ControlContext:
    settings: Settings
    ledger: Ledger
    repository: Repository
    owner: str
    """This process's name in the ledger."""
