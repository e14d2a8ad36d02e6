"""What a power cut would take of the files below a folder.

A file is safe when it was flushed before it got its name, and the folder that holds the name after that. No
test can cut the power: the calls that make things durable are watched on their way to the kernel, and made.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

_Inode = tuple[int, int]


class PowerCut:
    """Watches this process's calls from now on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
        self._folder = folder
        self._before = self._content()
        self._events: list[tuple[str, _Inode, Path | None]] = []
        self._fsync = os.fsync
        monkeypatch.setattr(os, "fsync", self._flush)
        for name in ("link", "rename", "replace"):
            monkeypatch.setattr(os, name, self._naming(getattr(os, name), 1))
        monkeypatch.setattr(os, "mkdir", self._naming(os.mkdir, 0))
        self._unlink = os.unlink
        monkeypatch.setattr(os, "unlink", self._remove)

    def would_take(self) -> list[str]:
        """What was made or written below the folder since then and is not safe."""
        changed = [path for path, seen in self._content().items() if self._before.get(path) != seen]
        return [str(path.relative_to(self._folder)) for path in changed if not self._is_safe(path)]

    def would_bring_back(self) -> list[str]:
        """What was removed since then, and may be there again."""
        removed = [path for path in self._before if not path.exists()]
        return [str(path.relative_to(self._folder)) for path in removed if not self._is_safe(path)]

    def _is_safe(self, path: Path) -> bool:
        at = next((at for at, event in reversed([*enumerate(self._events)]) if event[2] == path), None)
        if at is None:
            return False  # written where it stands: a power cut leaves a part of it
        before = {inode for what, inode, _ in self._events[:at] if what == "flush"}
        after = {inode for what, inode, _ in self._events[at:] if what == "flush"}
        return _inode(path.parent) in after and (not path.is_file() or _inode(path) in before)

    def _content(self) -> dict[Path, tuple[_Inode, int]]:
        found = sorted(self._folder.rglob("*"))
        return {path: (_inode(path), 0 if path.is_dir() else path.stat().st_mtime_ns) for path in found}

    def _flush(self, descriptor: int) -> None:
        self._fsync(descriptor)
        status = os.fstat(descriptor)
        self._events.append(("flush", (status.st_dev, status.st_ino), None))

    def _remove(self, path: str | Path, **options: Any) -> None:
        self._events.append(("remove", _inode(Path(path)), Path(path).absolute()))
        self._unlink(path, **options)

    def _naming(self, real: Callable[..., None], position: int) -> Callable[..., None]:
        def named(*arguments: Any, **options: Any) -> None:
            real(*arguments, **options)
            path = Path(arguments[position]).absolute()
            self._events.append(("name", _inode(path), path))

        return named


def _inode(path: Path) -> _Inode:
    status = path.stat()
    return status.st_dev, status.st_ino
