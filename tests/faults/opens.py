"""What the hosts' log says of opens: how many at once, how many there were. Pure functions."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

Entry = Mapping[str, Any]


def most_at_once(intervals: Iterable[tuple[float, float]]) -> int:
    """How many of the half-open intervals cover one moment at most."""
    steps = sorted(step for start, end in intervals for step in ((start, 1), (end, -1)))
    now = most = 0
    for _, step in steps:
        now += step
        most = max(most, now)
    return most


def in_progress(entry: Entry) -> tuple[float, float]:
    """From accept until the answer to EXPORT_NAME, or until it ended without one."""
    ends = [entry[key] for key in ("answered", "closed") if entry[key] is not None]
    return entry["opened"], min(ends, default=float("inf"))


def most_opens(connections: Iterable[Entry], key: str) -> int:
    """The most opens in progress of one `host`, or of one `vdi`."""
    found: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for entry in connections:
        if entry[key] is not None and entry["outcome"] != "rejected-busy":
            found[entry[key]].append(in_progress(entry))
    return max((most_at_once(intervals) for intervals in found.values()), default=0)


def opened(connections: Iterable[Entry]) -> int:
    return sum(entry["answered"] is not None for entry in connections)


def blocks_read(reads: Iterable[Mapping[str, Any]], block: int = 65536) -> dict[str, set[int]]:
    """Which blocks of each VDI were sent to their last byte."""
    found: dict[str, set[int]] = defaultdict(set)
    for read in reads:
        first, last = read["offset"] // block, -(-(read["offset"] + read["length"]) // block)
        found[read["vdi"]].update(range(first, last))
    return found
