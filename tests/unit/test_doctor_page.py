"""docs/operations.md lists every name that the doctor gives to what it looks at, and no other."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
_DOTTED = re.compile(r'"((?:pool|policy|store|redis|key|fleet)\.[a-z.-]+)"')
_PLAIN = {"slots", "keys", "encryption", "repository", "configuration", "nights", "store", "redis"}


def test_every_name_is_in_the_table_and_no_other() -> None:
    page = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    section = page.partition("### The doctor")[2].partition("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("|")][2:]
    listed = {name for row in rows for name in re.findall(r"`([^`]+)`", row.split("|")[2])}
    sources = [*(ROOT / "scheduler" / "checks").glob("*.py")]
    given = {name for path in sources for name in _DOTTED.findall(path.read_text(encoding="utf-8"))}
    assert listed == given | _PLAIN
