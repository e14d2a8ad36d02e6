"""A copy of the sources to run from: what is tested is what was there at the beginning, or broken."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from tests.faults.servers import ROOT

PARTS = ("workers", "scheduler", "infra", "tests/faults", "tests/__init__.py")


def copy_sources(target: Path, changes: Mapping[str, tuple[str, str]] | None = None) -> Path:
    """`changes`: file -> a text that is in it exactly once, and what stands there in the copy."""
    for part in PARTS:
        if (ROOT / part).is_dir():
            shutil.copytree(ROOT / part, target / part, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / part, target / part)
    for name, (old, new) in (changes or {}).items():
        text = (target / name).read_text(encoding="utf-8")
        if text.count(old) != 1:
            raise ValueError(f"{name} no longer holds this text once, so it cannot be broken there: {old!r}")
        (target / name).write_text(text.replace(old, new), encoding="utf-8")
    return target
