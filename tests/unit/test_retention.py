from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler.policies.policy import Keep
from scheduler.policies.retention import decide
from workers.repository import DiskPoint, Point, point_id

VM = "0c1d7b52-5c0a-4f0e-9a53-1f6c2f3b7a10"
ZONE = ZoneInfo("UTC")
LONDON = ZoneInfo("Europe/London")
LATER = datetime(2030, 1, 1, tzinfo=UTC)


def point(time: str, *disks: str, policy: str | None = "nightly") -> Point:
    rows = tuple(
        DiskPoint(disk, disk, "0", 1 << 20, f"snapshot-{disk}", "sr", "full", None, 0, 0, 0, ())
        for disk in disks or ("root",)
    )
    run = run_of(time)
    return Point(point_id(run, VM), "web", VM, f"{time}Z", run, "lab", rows, policy)


def run_of(time: str) -> str:
    return f"{time.replace('-', '').replace(':', '')}Z-0a1b2c"


def kept(points: Iterable[Point], zone: ZoneInfo = ZONE, **keep: int) -> list[str]:
    decisions = decide(points, "nightly", Keep(**keep), zone, LATER)
    return [decision.point.time.removesuffix("Z") for decision in decisions if decision.kept_by]


def nightly(first: str, nights: int) -> list[Point]:
    start = datetime.fromisoformat(first)
    return [point((start + timedelta(days=night)).isoformat()) for night in range(nights)]


@pytest.mark.parametrize(
    ("keep", "expected"),
    [
        ({"last": 2}, ["2026-02-27", "2026-02-28"]),
        ({"daily": 3}, ["2026-02-26", "2026-02-27", "2026-02-28"]),
        ({"weekly": 3}, ["2026-02-15", "2026-02-22", "2026-02-28"]),  # Sundays end an ISO week
        ({"monthly": 2}, ["2026-01-31", "2026-02-28"]),
        ({"yearly": 2}, ["2025-12-31", "2026-02-28"]),
        ({"yearly": 9}, ["2025-12-31", "2026-02-28"]),
        ({"last": 1, "monthly": 3}, ["2025-12-31", "2026-01-31", "2026-02-28"]),
    ],
)
def test_a_rule_keeps_the_newest_of_each_period(keep: dict[str, int], expected: list[str]) -> None:
    points = nightly("2025-12-01T01:00:00", 90)
    assert [time[:10] for time in kept(points, **keep)] == expected


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        # Monday, 29 December 2025, to Sunday, 4 January 2026, is one week, the first of 2026
        (["2025-12-28", "2025-12-30", "2026-01-03"], ["2025-12-28", "2026-01-03"]),
        # and so not the week of 1 January 2025, which is the first of that year
        (["2025-01-01", "2025-12-30"], ["2025-01-01", "2025-12-30"]),
        # 1 January 2027, a Friday, ends the 53rd week of 2026
        (["2026-12-27", "2026-12-28", "2027-01-01"], ["2026-12-27", "2027-01-01"]),
    ],
)
def test_a_week_at_the_turn_of_a_year_is_one_week(times: list[str], expected: list[str]) -> None:
    points = [point(f"{time}T01:00:00") for time in times]
    assert [time[:10] for time in kept(points, weekly=2)] == expected


def test_a_period_without_a_point_is_not_counted() -> None:
    points = [point("2026-01-01T01:00:00"), point("2026-03-05T01:00:00"), point("2026-03-09T01:00:00")]
    assert kept(points, daily=3) == ["2026-01-01T01:00:00", "2026-03-05T01:00:00", "2026-03-09T01:00:00"]


def test_days_are_those_of_the_time_zone() -> None:
    points = [point("2026-06-01T22:30:00"), point("2026-06-01T23:30:00"), point("2026-06-02T01:00:00")]
    assert kept(points, daily=2) == ["2026-06-01T23:30:00", "2026-06-02T01:00:00"]
    assert kept(points, ZoneInfo("Europe/London"), daily=2) == ["2026-06-01T22:30:00", "2026-06-02T01:00:00"]


def test_the_newest_point_of_a_disk_stays_whatever_the_rules_say() -> None:
    """The disk `old` was detached, or fails since: its last point is the only copy there is."""
    points = [
        point("2026-01-01T01:00:00", "root", "old"),
        point("2026-01-02T01:00:00", "root", "old"),
        point("2026-01-03T01:00:00", "root"),
        point("2026-01-04T01:00:00", "root"),
    ]
    assert kept(points, last=1) == ["2026-01-02T01:00:00", "2026-01-04T01:00:00"]


def test_points_of_others_are_not_decided_about_and_fill_no_period() -> None:
    points = [
        point("2026-01-01T01:00:00"),
        point("2026-01-01T12:00:00", policy=None),
        point("2026-01-02T01:00:00"),
        point("2026-01-02T12:00:00", policy="hourly"),
    ]
    decisions = decide(points, "nightly", Keep(daily=1), ZONE, LATER)
    assert [(each.point.time, each.kept_by) for each in decisions] == [
        ("2026-01-01T01:00:00Z", ()),
        ("2026-01-02T01:00:00Z", ("daily 2026-01-02",)),
    ]


def test_the_order_is_that_of_the_runs_whatever_the_pools_clock_said() -> None:
    """It was put back by a month, and is a day behind since."""
    points = [
        replace(point("2026-01-01T01:00:00"), time="2026-02-01T01:00:00Z"),
        replace(point("2026-01-02T01:00:00"), time="2026-01-01T01:00:00Z"),
        replace(point("2026-01-03T01:00:00"), time="2026-01-02T01:00:00Z"),
    ]
    decisions = decide(reversed(points), "nightly", Keep(last=1, daily=2), ZONE, LATER)
    assert [each.point.run for each in decisions] == [each.run for each in points]
    assert [each.kept_by for each in decisions] == [
        (),
        ("daily 2026-01-02",),
        ("last", "daily 2026-01-03", "newest of disk root"),
    ]


def test_points_from_the_future_fill_no_place_and_stay() -> None:
    """For two nights the pool's clock was 30 days ahead."""
    nights = nightly("2026-01-01T01:00:00", 5)
    ahead = [
        replace(
            each, time=(datetime.fromisoformat(each.time) + timedelta(days=30)).strftime("%Y-%m-%dT%H:%M:%SZ")
        )
        for each in nights[:2]
    ]
    for night in range(3, 6):
        now = datetime(2026, 1, night, 2, tzinfo=UTC)
        points = [*ahead, *nights[2:night]]
        decisions = decide(points, "nightly", Keep(last=2), ZONE, now)
        stay = [each.point for each in decisions if each.kept_by]
        assert stay == [*ahead, *nights[2:night][-2:]], f"night {night}"
        assert decisions[0].kept_by == ("dated in the future, 2026-01-31",)
    decisions = decide([*ahead, *nights[2:]], "nightly", Keep(last=2), ZONE, LATER)
    assert [each.point for each in decisions if each.kept_by] == nights[3:]


@pytest.mark.parametrize(("seconds", "counts"), [(299, True), (301, False)])
def test_clocks_differ_a_little(seconds: int, counts: bool) -> None:
    now = datetime(2026, 1, 1, 1, tzinfo=UTC)
    made = point((now + timedelta(seconds=seconds)).replace(tzinfo=None).isoformat())
    [decision] = decide([made], "nightly", Keep(last=1), ZONE, now)
    assert ("last" in decision.kept_by) == counts


KEEPS = st.fixed_dictionaries(
    {rule: st.integers(0, 4) for rule in ("last", "daily", "weekly", "monthly", "yearly")}
).filter(lambda keep: any(keep.values()))
POINTS = st.lists(
    st.tuples(
        st.integers(0, 24 * 450),
        st.sets(st.sampled_from(["root", "data", "old"]), min_size=1),
        st.sampled_from(["nightly", "nightly", "nightly", "hourly", None]),
    ),
    max_size=40,
    unique_by=lambda made: made[0],
).map(
    lambda made: [
        point((datetime(2025, 1, 1) + timedelta(hours=hours)).isoformat(), *sorted(disks), policy=policy)
        for hours, disks, policy in sorted(made, key=lambda each: each[0])
    ]
)


@settings(deadline=None)
@given(POINTS, KEEPS)
def test_a_disk_never_loses_its_newest_point_and_forgetting_twice_forgets_no_more(
    points: list[Point], keep: dict[str, int]
) -> None:
    decisions = decide(points, "nightly", Keep(**keep), LONDON, LATER)
    gone = {decision.point.id for decision in decisions if not decision.kept_by}
    stay = [each for each in points if each.id not in gone]
    assert all(each.policy == "nightly" for each in points if each.id in gone)
    for disk in {disk.vdi for each in points for disk in each.disks}:
        newest = max((each for each in points if disk in {of.vdi for of in each.disks}), key=lambda p: p.time)
        assert newest in stay
    ours = [each for each in points if each.policy == "nightly"]
    assert {each.id for each in ours[-keep["last"] :] if keep["last"]}.isdisjoint(gone)
    assert len(ours) - len(gone) <= sum(keep.values()) + 3  # three disks
    assert all(each.kept_by for each in decide(stay, "nightly", Keep(**keep), LONDON, LATER))


@settings(deadline=None, max_examples=40)
@given(POINTS, KEEPS)
def test_night_after_night_comes_to_the_same_as_once(points: list[Point], keep: dict[str, int]) -> None:
    store: list[Point] = []
    for each in points:
        store.append(each)
        gone = {
            decision.point.id
            for decision in decide(store, "nightly", Keep(**keep), LONDON, LATER)
            if not decision.kept_by
        }
        store = [old for old in store if old.id not in gone]
    at_once = {
        decision.point.id
        for decision in decide(points, "nightly", Keep(**keep), LONDON, LATER)
        if decision.kept_by
    }
    assert {each.id for each in store if each.policy == "nightly"} == at_once


def test_what_is_kept_stays_kept_when_the_forgotten_are_gone() -> None:
    """Forgetting night after night comes to the same as forgetting once."""
    seeded = random.Random(7)
    start = datetime(2025, 1, 1, tzinfo=UTC)
    times = sorted({start + timedelta(hours=seeded.randrange(24 * 500)) for _ in range(300)})
    points = [point(time.replace(tzinfo=None).isoformat()) for time in times]
    keep = {"last": 3, "daily": 7, "weekly": 4, "monthly": 12, "yearly": 2}
    nightly_store: list[Point] = []
    for each in points:
        nightly_store.append(each)
        stays = set(kept(nightly_store, **keep))
        nightly_store = [old for old in nightly_store if old.time.removesuffix("Z") in stays]
    assert [each.time.removesuffix("Z") for each in nightly_store] == kept(points, **keep)
