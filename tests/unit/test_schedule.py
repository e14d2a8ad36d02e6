"""Cron expressions over the changes of the clocks; what a scheduler that was away makes up for."""

from __future__ import annotations

from datetime import UTC, datetime, time, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler.policies.schedule import Schedule, check_expression, due, time_of_day, window_end

LONDON = ZoneInfo("Europe/London")
LORD_HOWE = ZoneInfo("Australia/Lord_Howe")
"""Its clocks change by half an hour."""

DAY = timedelta(days=1)
LONG_AGO = datetime(2000, 1, 1, tzinfo=UTC)


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def slots(expression: str, zone: ZoneInfo, first: str, count: int) -> list[str]:
    schedule = Schedule(expression, zone)
    moment, found = utc(first) - timedelta(seconds=1), []
    for _ in range(count):
        after = schedule.next(moment)
        assert after is not None
        moment = after
        found.append(f"{moment:%m-%d %H:%M}")
    return found


@pytest.mark.parametrize(
    ("expression", "first", "expected"),
    [
        # 01:00 to 02:00 is leapt over on 29 March 2026
        ("0 1 * * *", "2026-03-28T00:00", ["03-28 01:00", "03-29 01:00", "03-30 00:00"]),
        ("30 1 * * *", "2026-03-28T00:00", ["03-28 01:30", "03-29 01:00", "03-30 00:30"]),
        ("0 3 * * *", "2026-03-28T00:00", ["03-28 03:00", "03-29 02:00", "03-30 02:00"]),
        # and comes twice on 25 October 2026
        ("30 1 * * *", "2026-10-24T00:00", ["10-24 00:30", "10-25 00:30", "10-26 01:30"]),
        ("30 0 * * *", "2026-10-24T00:00", ["10-24 23:30", "10-26 00:30", "10-27 00:30"]),
        ("0 * * * *", "2026-10-25T00:00", ["10-25 00:00", "10-25 01:00", "10-25 02:00"]),
        ("0 */6 * * *", "2026-10-24T18:00", ["10-24 23:00", "10-25 06:00", "10-25 12:00"]),
    ],
)
def test_the_days_on_which_the_clocks_change(expression: str, first: str, expected: list[str]) -> None:
    assert slots(expression, LONDON, first, 3) == expected


ZONES = st.sampled_from([LONDON, LORD_HOWE, ZoneInfo("UTC"), ZoneInfo("America/New_York")])
MOMENTS = st.one_of(
    st.datetimes(datetime(2020, 1, 1), datetime(2032, 1, 1)),
    # around London's and Lord Howe's changes
    *[
        st.datetimes(day - timedelta(hours=14), day + timedelta(hours=14))
        for day in (
            datetime(2026, 3, 29, 1),
            datetime(2026, 10, 25, 1),
            datetime(2026, 4, 4, 15),
            datetime(2026, 10, 3, 15),
        )
    ],
).map(lambda moment: moment.replace(tzinfo=UTC))
EXPRESSIONS = st.sampled_from(
    ["0 1 * * *", "30 1 * * *", "15,45 1,2 * * *", "*/20 * * * *", "0 */2 * * *", "0 2 * * 1-5", "5 0 1 * *"]
)


@settings(deadline=None)
@given(ZONES, MOMENTS, EXPRESSIONS)
def test_latest_and_next_are_of_one_row_of_slots(zone: ZoneInfo, now: datetime, expression: str) -> None:
    schedule = Schedule(expression, zone)
    latest, following = schedule.latest(now), schedule.next(now)
    assert latest is not None
    assert following is not None
    assert latest <= now < following
    assert schedule.next(latest) == following
    assert schedule.latest(following) == following
    assert schedule.latest(following - timedelta(microseconds=1)) == latest
    assert schedule.has(latest)
    assert not schedule.has(latest + timedelta(seconds=1))


@settings(deadline=None)
@given(ZONES, MOMENTS, st.times().map(lambda at: at.replace(second=0, microsecond=0)))
def test_a_window_ends_within_about_a_day_at_its_time(zone: ZoneInfo, slot: datetime, end: time) -> None:
    moment = window_end(slot, end, zone)
    assert slot < moment <= slot + DAY + timedelta(hours=1)
    shown = moment.astimezone(zone).time()
    leapt_over = datetime.combine(moment.astimezone(zone).date(), end, zone)
    exists = leapt_over.astimezone(UTC).astimezone(zone).time() == end
    assert shown == end or not exists


@settings(max_examples=60, deadline=None)
@given(ZONES, MOMENTS, st.integers(5, 400), EXPRESSIONS)
def test_each_slot_is_run_once_however_often_one_looks(
    zone: ZoneInfo, start: datetime, minutes: int, expression: str
) -> None:
    """A scheduler that looks every few minutes for two days and remembers only what was run."""
    schedule = Schedule(expression, zone)
    last, ran, now = schedule.latest(start), [], start
    while now < start + 2 * DAY:
        now += timedelta(minutes=minutes)
        slot = due(schedule, last, LONG_AGO, now)
        assert due(schedule, slot or last, LONG_AGO, now) is None
        if slot is not None:
            ran.append(slot)
            last = slot
    assert ran == sorted(set(ran))
    assert last == schedule.latest(now)
    if minutes == 5:  # no two slots are nearer to each other: none is left out
        expected, slot = [], schedule.next(start)
        while slot is not None and slot <= now:
            expected.append(slot)
            slot = schedule.next(slot)
        assert ran == expected


NIGHTLY = Schedule("0 1 * * *", LONDON)


def test_of_many_missed_nights_only_the_latest_is_made_up_for() -> None:
    last, now = utc("2026-11-10T01:00"), utc("2026-11-22T09:30")
    assert due(NIGHTLY, last, now, now) == utc("2026-11-22T01:00")
    assert due(NIGHTLY, utc("2026-11-22T01:00"), now, now) is None


def test_nothing_was_missed_before_the_first_run() -> None:
    began = utc("2026-11-22T09:30")
    assert due(NIGHTLY, None, began, began) is None
    assert due(NIGHTLY, None, began, utc("2026-11-23T01:00")) == utc("2026-11-23T01:00")


def test_a_schedule_that_was_changed_misses_nothing_of_before() -> None:
    began, last = utc("2026-11-22T09:30"), utc("2026-11-22T01:00")
    changed = Schedule("0 3 * * *", LONDON)
    assert due(changed, last, began, began) is None
    assert due(changed, last, began, utc("2026-11-23T03:05")) == utc("2026-11-23T03:00")


def test_a_clock_that_was_put_back_runs_nothing_again() -> None:
    assert due(NIGHTLY, utc("2026-11-22T01:00"), LONG_AGO, utc("2026-11-21T12:00")) is None


def test_the_29th_of_february_is_remembered() -> None:
    leap = Schedule("0 0 29 2 *", LONDON)
    assert leap.latest(utc("2032-02-28T12:00")) == utc("2028-02-29T00:00")
    assert Schedule("0 0 * 2 1#5", LONDON).latest(utc("2035-01-01T00:00")) is None


@pytest.mark.parametrize(
    ("expression", "said"),
    [
        ("@daily", "five fields"),
        ("0 0 1 * * *", "five fields"),
        ("60 1 * * *", "the minute is wrong"),
        ("0 1 * * MOO", "the day-of-week is wrong"),
        ("0 1 31 2 *", "the day-of-month is wrong"),
        ("0 1 * * 1L/2", "the day-of-week is wrong"),
        ("0 1 30 2 */9#5", "is wrong"),
        (f"{'9' * 5000} 1 * * *", "is wrong"),
    ],
)
def test_expressions_that_are_none(expression: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        check_expression(expression)


@settings(deadline=None)
@given(st.text("0123456789*/,-L#W MONJA", max_size=20))
def test_any_text_is_an_expression_or_is_refused(text: str) -> None:
    expression = f"0 1 {text}"
    try:
        check_expression(expression)
    except ValueError:
        return
    assert Schedule(expression, LONDON).next(LONG_AGO) is not None


@pytest.mark.parametrize("text", ["6:00", "24:00", "06:60", "06:00:00", "6", ""])
def test_what_is_no_time_of_day(text: str) -> None:
    with pytest.raises(ValueError, match="time of day"):
        time_of_day(text)


def test_the_end_of_a_window_on_the_days_that_the_clocks_change() -> None:
    assert window_end(utc("2026-03-29T00:30"), time(1, 30), LONDON) == utc("2026-03-29T01:30")
    assert window_end(utc("2026-10-25T00:00"), time(1, 30), LONDON) == utc("2026-10-25T00:30")
    assert window_end(utc("2026-10-25T00:45"), time(1, 30), LONDON) == utc("2026-10-25T01:30")
    assert window_end(utc("2026-11-22T01:00"), time(1, 0), LONDON) == utc("2026-11-23T01:00")
