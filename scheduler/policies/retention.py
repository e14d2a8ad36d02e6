"""Which restore points are kept: a pure function over the points of one VM.

Every rule keeps the newest point of each of the newest periods that have one; a point stays when any rule
wants it. docs/retention.md has examples.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

from scheduler.policies.policy import Keep
from workers.repository import Point

_PERIODS = {"daily": "%Y-%m-%d", "weekly": "%G-W%V", "monthly": "%Y-%m", "yearly": "%Y"}
"""How `strftime` names the period of a local time, by rule; weeks are ISO weeks, from Monday."""


FUTURE = timedelta(minutes=5)
"""So far ahead of now a restore point may be dated: clocks differ a little."""


@dataclass(frozen=True)
class Decision:
    point: Point
    kept_by: tuple[str, ...]
    """Each rule that wants it, with its period, like `daily 2026-11-22`; empty: it is to be forgotten."""


def decide(points: Iterable[Point], policy: str, keep: Keep, zone: ZoneInfo, now: datetime) -> list[Decision]:
    """A decision for each point that `policy` made, oldest first; `points` are all those of one VM.

    Age is the order of the runs, and time that of a run's name: a pool's clock decides neither. Days, weeks,
    months and years are those of `zone`. Points of other policies, or of none, are never forgotten and fill
    no period. Nor are those that are dated after `now`, by the pool's clock or by ours, as long as they are:
    some clock was wrong. The newest point of a disk stays, whoever made it.
    """
    by_age = sorted(points, key=lambda point: point.order, reverse=True)
    ours = [point for point in by_age if point.policy == policy]
    kept_by: dict[str, list[str]] = {point.id: [] for point in by_age}
    to_come = [point for point in ours if is_to_come(point, now)]
    for point in to_come:
        kept_by[point.id].append(f"dated in the future, {_latest(point):%Y-%m-%d}")
    counted = [point for point in ours if point not in to_come]
    for point, reason in [*_kept_by_rules(counted, keep, zone), *_newest_of_disks(by_age)]:
        kept_by[point.id].append(reason)
    return [Decision(point, tuple(kept_by[point.id])) for point in reversed(ours)]


def _kept_by_rules(by_age: list[Point], keep: Keep, zone: ZoneInfo) -> Iterator[tuple[Point, str]]:
    for point in by_age[: keep.last]:
        yield point, "last"
    for rule, form in _PERIODS.items():
        newest: dict[str, Point] = {}
        for point in by_age:
            newest.setdefault(point.made.astimezone(zone).strftime(form), point)
        for period, point in list(newest.items())[: getattr(keep, rule)]:
            yield point, f"{rule} {period}"


def _newest_of_disks(by_age: list[Point]) -> Iterator[tuple[Point, str]]:
    seen: set[str] = set()
    for point in by_age:
        for disk in point.disks:
            if disk.vdi not in seen:
                yield point, f"newest of disk {disk.name or disk.vdi}"
                seen.add(disk.vdi)


def is_to_come(point: Point, now: datetime) -> bool:
    """Whether the point is dated in the future, by the pool's clock or by ours: some clock was wrong."""
    return _latest(point) > now + FUTURE


def _latest(point: Point) -> datetime:
    return max(point.made, datetime.fromisoformat(point.time))
