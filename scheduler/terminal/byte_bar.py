"""A bar of bytes on stderr while a restore or a verify goes on; nothing when stderr is no terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)


@contextmanager
def byte_bar(title: str, total: int | None) -> Iterator[Callable[[int], None] | None]:
    """Yields what takes each further number of bytes done. `total` None: no bar is wanted."""
    console = Console(stderr=True)
    if total is None or not console.is_terminal:
        yield None
        return
    columns = [TextColumn("{task.description}"), BarColumn(), DownloadColumn(True)]
    with Progress(
        *columns, TransferSpeedColumn(), TimeRemainingColumn(), console=console, transient=True
    ) as bar:
        task = bar.add_task(title, total=total or None)
        yield lambda done: bar.advance(task, done)
