"""The map in docs/architecture.md names every file, and no file that is not there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")


def section(title: str) -> str:
    return PAGE.partition(f"## The files of {title}")[2].partition("\n## ")[0]


@pytest.mark.parametrize("part", ["workers/", "scheduler/"])
def test_the_map_is_complete_and_names_nothing_else(part: str) -> None:
    named = set(re.findall(r"`(?:\w+/)?(\w+\.py|\w+/)`", section(part)))
    top = {path.name for path in (ROOT / part).glob("*.py")} - {"__init__.py"}
    rooms = [path.parent for path in (ROOT / part).glob("*/__init__.py")]
    below = {path.name for room in rooms for path in room.glob("*.py")} - {"__init__.py"}
    assert top <= named
    assert {name for name in named if name.endswith(".py")} <= top | below
    for room in rooms:
        assert f"`{room.name}/`" in section(part) or f"**{room.name}/**" in section(part)
    if part == "workers/":
        assert below <= named
