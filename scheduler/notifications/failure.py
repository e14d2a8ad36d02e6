"""What a notification that was not taken raises."""

from __future__ import annotations

from workers.errors import CbtfleetError


class NotificationFailed(CbtfleetError):
    """`passing`: the same may be taken in a moment."""

    def __init__(self, line: str, *, passing: bool = False) -> None:
        super().__init__(line)
        self.passing = passing
