"""When a policy is due: a cron expression in a time zone, as pure functions over moments in UTC.

What a change of the clocks does is cronsim's, which does as Debian's cron: a slot at a time of day that the
clocks leap over comes when they have leapt, one at a time of day that comes twice comes the first time; an
expression whose minute or hour is `*` (or `*/n`) goes by real hours instead.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from itertools import takewhile
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

_FIRST_LOOK = timedelta(hours=1)
_LONGEST_LOOK = timedelta(days=9 * 366)
"""The 29th of February is up to eight years ago."""

_TIME_OF_DAY = re.compile(r"([01]\d|2[0-3]):([0-5]\d)")


@dataclass(frozen=True)
class Schedule:
    """The slots of a cron expression of five fields; every `datetime` in and out is in UTC."""

    expression: str
    zone: ZoneInfo

    def latest(self, now: datetime) -> datetime | None:
        """The last slot that is not later than `now`; None when there was none for nine years or more."""
        look = _FIRST_LOOK
        while look < _LONGEST_LOOK * 2:
            passed = list(takewhile(lambda slot: slot <= now, self._slots(now - look)))
            if passed:
                return max(passed)
            look *= 2
        return None

    def next(self, after: datetime) -> datetime | None:
        """The first slot later than `after`; None when none comes in fifty years."""
        return next((slot for slot in self._slots(after) if slot > after), None)

    def has(self, moment: datetime) -> bool:
        return self.latest(moment) == moment

    def _slots(self, after: datetime) -> Iterator[datetime]:
        """Ascending; where the clocks were put back, the first may be a little earlier than `after`."""
        for slot in CronSim(self.expression, after.astimezone(self.zone)):
            yield slot.astimezone(UTC)


def check_expression(expression: str) -> str:
    """`expression` itself. Raises ValueError that says what is wrong with it."""
    if len(expression.split()) != 5:
        raise ValueError('must have five fields, like "0 1 * * *"')
    try:
        slots = Schedule(expression, ZoneInfo("UTC"))
        never = slots.next(datetime(2000, 1, 1, tzinfo=UTC)) is None
    except (CronSimError, AssertionError, ValueError) as error:
        what = str(error).lower().replace("bad ", "the ") if isinstance(error, CronSimError) else "it"
        raise ValueError(f'is not a cron expression: {what} is wrong; write it like "0 1 * * *"') from error
    if never:
        raise ValueError("never comes: there is no such day")
    return expression


def time_of_day(text: str) -> time:
    """Of `06:00`. Raises ValueError."""
    match = _TIME_OF_DAY.fullmatch(text)
    if match is None:
        raise ValueError('must be a time of day, like "06:00"')
    return time(int(match[1]), int(match[2]))


def window_end(slot: datetime, end: time, zone: ZoneInfo) -> datetime:
    """The first moment after `slot` at which a clock in `zone` shows `end`.

    On the day that the clocks leap over that time, the moment that would have been it; on the day that it
    comes twice, the first of them that is after the slot.
    """
    day = slot.astimezone(zone).date()
    while True:
        for fold in (0, 1):
            moment = datetime.combine(day, end, zone).replace(fold=fold).astimezone(UTC)
            if moment > slot:
                return moment
        day += timedelta(days=1)


def due(schedule: Schedule, last: datetime | None, began: datetime, now: datetime) -> datetime | None:
    """The slot to run now, if any: the latest one, so that of several missed ones one is made up for.

    `last` is the newest slot that was run or skipped. Without one, or with one that this schedule does not
    have (it was changed since), nothing tells what was missed: then only slots since `began` count, the time
    at which the scheduler that asks was started.
    """
    slot = schedule.latest(now)
    if slot is None or (last is not None and slot <= last):
        return None
    made_up_for = last is not None and schedule.has(last)
    return slot if made_up_for or slot >= began else None
