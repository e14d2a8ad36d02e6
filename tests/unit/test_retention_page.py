"""The examples of docs/retention.md are what the function makes of them."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from scheduler.policies.policy import Keep
from scheduler.policies.retention import decide
from workers.repository import DiskPoint, Point, point_id

PAGE = (Path(__file__).parents[2] / "docs" / "retention.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"^```\n(keep = .*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
LINE = re.compile(
    r"(?P<time>\d{4}-\d\d-\d\d \d\d:\d\d)(?: \[(?P<policy>[^]]+)\])?(?: \{(?P<disks>[^}]+)\})?  +(?P<fate>.+)"
)


def point(row: re.Match[str]) -> Point:
    disks = tuple(
        DiskPoint(name, name, "0", 0, f"s-{name}", "sr", "full", None, 0, 0, 0, ())
        for name in (row["disks"] or "root").split(", ")
    )
    policy = {None: "nightly", "by hand": None}.get(row["policy"], row["policy"])
    time = f"{row['time'].replace(' ', 'T')}:00Z"
    return Point(point_id(time, "vm"), "web", "vm", time, time, "lab", disks, policy)


def fates(example: str) -> list[tuple[str, str]]:
    """Each line of an example's time, and what becomes of it by the function."""
    head, *lines = example.splitlines()
    settings = tomllib.loads(head.replace("   timezone", "\ntimezone"))
    rows = [LINE.fullmatch(line) for line in lines]
    assert all(rows), example
    points = [point(row) for row in rows if row]
    zone = ZoneInfo(settings.get("timezone", "UTC"))
    decided = {
        each.point.id: "kept: " + ", ".join(each.kept_by) if each.kept_by else "forgotten"
        for each in decide(points, "nightly", Keep(**settings["keep"]), zone, points[-1].made)
    }
    return [
        (row["time"], decided.get(each.id, "not asked"))
        for row, each in zip((row for row in rows if row), points, strict=True)
    ]


@pytest.mark.parametrize("example", EXAMPLES)
def test_an_example_of_the_page(example: str) -> None:
    said = [(row["time"], row["fate"]) for row in map(LINE.fullmatch, example.splitlines()[1:]) if row]
    assert said == fates(example)


def test_the_page_has_its_examples() -> None:
    assert len(EXAMPLES) == 5
