"""What crosses the queue: task names, queue names and small frozen values that carry only ids.

A message is a hint, never the truth: the ledger says what is granted and what is due. So a message that
is lost, late or doubled costs time and nothing else.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Self, get_type_hints

from workers.errors import CbtfleetError

STREAM_TASK = "cbtfleet.stream"
STREAM_QUEUE = "cbtfleet.streams"
STEP_TASK = "cbtfleet.step"
STEP_QUEUE = "cbtfleet.steps"


class NotAMessage(CbtfleetError):
    """Something else is in the queue: of another program, or of another version of this one."""


_LONGEST = 255
"""Characters of a name or an id."""

_LARGEST = (1 << 53) - 1
"""The last whole number that Redis's Lua holds exactly."""


def _could_be_ours(value: str | int) -> bool:
    """Whether a member may go on to the ledger and the log: no control characters, no lone surrogates."""
    if isinstance(value, str):
        return len(value) <= _LONGEST and value.isprintable()
    return 0 <= value <= _LARGEST


@dataclass(frozen=True)
class _Message:
    def as_message(self) -> dict[str, object]:
        return asdict(self)

    @classmethod
    def from_message(cls, message: object) -> Self:
        """What `as_message` made, after it was JSON. Raises NotAMessage."""
        members = message if isinstance(message, dict) else {}
        wanted = get_type_hints(cls)
        if {name: type(value) for name, value in members.items()} != wanted or not all(
            _could_be_ours(value) for value in members.values()
        ):
            raise NotAMessage(
                f"a message in the queue is no {cls.__name__.lower()} of this version of cbtfleet, which has"
                f" {', '.join(wanted)}; it is dropped: does another version or program use the same Redis?"
            )
        return cls(**members)


@dataclass(frozen=True)
class Grant(_Message):
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


@dataclass(frozen=True)
class Step(_Message):
    """One piece of control work of a run, e.g. `Step(run, "plan-vm", vm_uuid)`."""

    run: str
    name: str
    subject: str


QUEUES: dict[str, tuple[str, type[Grant] | type[Step]]] = {
    STREAM_QUEUE: (STREAM_TASK, Grant),
    STEP_QUEUE: (STEP_TASK, Step),
}
"""What each queue carries: the name of its one task, and that task's one argument."""
