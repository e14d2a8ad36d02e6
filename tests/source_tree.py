"""A copy of the sources to run from: what is tested is what was there at the beginning, or broken."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path

ROOT = Path(__file__).parents[1]
CODE = ("workers", "scheduler", "infra")
_NO_SOURCES = shutil.ignore_patterns("__pycache__", ".*_cache")


def copy_sources(
    target: Path,
    changes: Mapping[str, tuple[str, str]] | None = None,
    parts: Iterable[str] = CODE,
    root: Path = ROOT,
) -> Path:
    """`changes`: file -> a text that is in it exactly once, and what stands there in the copy. Raises
    ValueError when it is not."""
    for part in parts:
        if (root / part).is_dir():
            shutil.copytree(root / part, target / part, ignore=_NO_SOURCES)
        else:
            (target / part).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(root / part, target / part)
    for name, (old, new) in (changes or {}).items():
        text = (target / name).read_text(encoding="utf-8")
        if text.count(old) != 1:
            raise ValueError(f"{name} no longer holds this text once, so it cannot be broken there: {old!r}")
        (target / name).write_text(text.replace(old, new), encoding="utf-8")
    return target


def environment_of(tree: Path) -> dict[str, str]:
    """In which Python, and every Python that it starts, imports from the copy and not from where the package
    is installed; and keeps nothing that it compiled, as that would outlive a change of the source."""
    return {**os.environ, "PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1"}
