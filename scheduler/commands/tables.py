"""How lists, sizes and times look."""

from __future__ import annotations

from rich import box
from rich.table import Table

_UNITS = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"]


def plain_table(*columns: str) -> Table:
    """A table that stays readable in a pipe: no frame, no colour, no cut-off cell."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold", no_wrap=True)
    return table


def size(count: float) -> str:
    """Bytes for people: 0 B, 512 B, 1.5 KiB, 96 MiB."""
    unit = 0
    while count >= 1024 and unit < len(_UNITS) - 1:
        count /= 1024
        unit += 1
    return f"{count:.0f} {_UNITS[unit]}" if unit == 0 or count >= 100 else f"{count:.3g} {_UNITS[unit]}"


def duration(seconds: float) -> str:
    """Seconds for people: 0.4 s, 12 s, 3 min 05 s, 2 h 10 min."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
