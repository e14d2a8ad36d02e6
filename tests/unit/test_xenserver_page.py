"""docs/xenserver.md: every code that we have words for is in it, and every test that it names exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from workers.xenapi.meanings import MEANINGS, failure_text

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "xenserver.md").read_text(encoding="utf-8")


def test_every_test_that_is_named_exists() -> None:
    tests = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py"))
    named = set(re.findall(r"`(test_\w+)`", PAGE))
    assert named
    assert {name for name in named if f"def {name}(" not in tests} == set()


def test_every_row_names_a_test() -> None:
    rows = [line for line in PAGE.splitlines() if line.startswith("|") and not line.startswith("|---")]
    rows = [row for row in rows if not row.endswith("| test |")]
    assert [row for row in rows if not re.search(r"`test_\w+` \|$", row)] == []


@pytest.mark.parametrize("code", sorted(MEANINGS))
def test_known_codes_say_what_to_do(code: str) -> None:
    """One line without references, with the code in it; and the page says the same."""
    said = failure_text(code, ["OpaqueRef:1", "more"], "VDI.do", "lab")
    assert said == f"pool lab: VDI.do failed: {MEANINGS[code]} ({code}: <ref>, more)"
    assert "\n" not in said
    assert f"| `{code}` | {MEANINGS[code]} |" in PAGE
