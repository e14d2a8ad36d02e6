"""What a key says, read back."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from workers.repository.naming import PointName, point_id, point_key, run_time


def test_a_restore_points_key_is_read_back() -> None:
    run = "20261122T010203Z-0a1b2c"
    key = point_key("u-web", run, point_id(run, "u-web"))
    name = PointName.parse(key)
    assert name == PointName("u-web", run, point_id(run, "u-web"))
    assert name.key == key
    assert run_time(run) == datetime(2026, 11, 22, 1, 2, 3, tzinfo=UTC)


@pytest.mark.parametrize("run", ["by-hand", "20261122T010203Z", "20261399T010203Z-a", "x20261122T010203Z-a"])
def test_a_run_whose_name_tells_no_time(run: str) -> None:
    assert run_time(run) is None


@pytest.mark.parametrize(
    "key",
    [
        "points/u-web/20261122T010203Z-3fa9c1",
        "points/u-web/2026-11-22T01:02:03Z-0123456789ab",
        "points/u-web/.20261122T010203Z-0123456789ab",
        "points/u-web/more/20261122T010203Z-0123456789ab",
        "points/u-web/20261122T010203Z-0123456789ab.tmp",
        "metadata/u-web/20261122T010203Z-0123456789ab",
    ],
)
def test_what_is_no_restore_points_key(key: str) -> None:
    assert PointName.parse(key) is None
