"""What crosses the queue: task names, queue names and small frozen values that carry only ids.

A message is a hint, never the truth: the ledger says what is granted and what is due. So a message that
is lost, late or doubled costs time and nothing else.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

STREAM_TASK = "cbtfleet.stream"
STREAM_QUEUE = "cbtfleet.streams"
STEP_TASK = "cbtfleet.step"
STEP_QUEUE = "cbtfleet.steps"


@dataclass(frozen=True)
class Grant:
    """Leave to open one connection to one host for one disk of one run.

    `host` is the host's uuid, `disk` the live VDI's uuid, `slot` a number in 0..cap-1 of that host and
    `fence` grows with every grant of the slot: an action with an old fence does nothing.
    """

    pool: str
    host: str
    slot: int
    fence: int
    run: str
    disk: str

    def as_message(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_message(cls, message: dict[str, Any]) -> Grant:
        return cls(**message)


@dataclass(frozen=True)
class Step:
    """One piece of control work of a run, e.g. `Step(run, "plan-vm", vm_uuid)`."""

    run: str
    name: str
    subject: str

    def as_message(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_message(cls, message: dict[str, Any]) -> Step:
        return cls(**message)
