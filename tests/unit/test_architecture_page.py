"""The map in docs/architecture.md names every file in its room, and no file that is not there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
DESCRIBED_AS_A_WHOLE = {"commands", "terminal", "checks", "notifications", "demo"}
"""Rooms whose files follow from what they are about: one a command, one a thing looked at."""


def named_by_room(part: str) -> dict[str, set[str]]:
    """The files that the page names for each room; "" is the plane's own folder."""
    section = PAGE.partition(f"## The files of {part}/")[2].partition("\n## ")[0]
    pieces = re.split(r"\*\*(\w+)/\*\*", section)
    rooms = {"": pieces[0], **dict(zip(pieces[1::2], pieces[2::2], strict=True))}
    return {room: set(re.findall(r"`(\w+\.py)`", text)) for room, text in rooms.items()}


def files_of(folder: Path) -> set[str]:
    return {path.name for path in folder.glob("*.py")} - {"__init__.py"}


@pytest.mark.parametrize("part", ["workers", "scheduler"])
def test_the_map_is_complete_and_names_nothing_else(part: str) -> None:
    named = named_by_room(part)
    there = {"": files_of(ROOT / part)}
    there |= {init.parent.name: files_of(init.parent) for init in (ROOT / part).glob("*/__init__.py")}
    assert set(named) == set(there)
    for room in set(there) - DESCRIBED_AS_A_WHOLE:
        assert named[room] == there[room], f"{part}/{room}"
