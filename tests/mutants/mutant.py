"""Mutants: lines that guard data, each with what breaks it and the tests that must see that.

A line belongs here when without it a backup would be lost, wrong or readable, and nothing else would say so.
They stand in the `.toml` files of this folder, one for each part of the code.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path

PARTS = ("streams", "repository", "fleet", "scheduler")


@dataclass(frozen=True)
class Mutant:
    """`text` stands in `file` exactly once; `broken` takes its place. `tests` are pytest's own names."""

    name: str
    keeps: str
    """What the line keeps, in the words of docs/glossary.md."""
    file: str
    text: str
    broken: str
    tests: tuple[str, ...]


def load(part: str) -> list[Mutant]:
    rows = tomllib.loads(Path(__file__).with_name(f"{part}.toml").read_text(encoding="utf-8"))["mutant"]
    return [Mutant(**{**row, "tests": tuple(row["tests"])}) for row in rows]


MUTANTS = [mutant for part in PARTS for mutant in load(part)]


def table() -> str:
    """As it stands in docs/testing.md."""
    rows = ["| broken | what the line keeps | where | seen by |", "|---|---|---|---|"]
    for each in MUTANTS:
        tests = ", ".join(f"`{test.rpartition('::')[2]}`" for test in each.tests)
        rows.append(f"| {each.name} | {each.keeps} | `{each.file}` | {tests} |")
    return "\n".join(rows) + "\n"
