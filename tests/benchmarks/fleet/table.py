"""One measured figure a row, beside what was aimed for."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    what: str
    measured: str
    aim: str = ""
    met: bool | None = None
    note: str = ""


def percentile(samples: Sequence[float], share: float) -> float:
    ordered = sorted(samples)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def median_and_p99(samples: Sequence[float]) -> str:
    """Seconds, as milliseconds."""
    return f"{percentile(samples, 0.5) * 1e3:.2f} ms / {percentile(samples, 0.99) * 1e3:.2f} ms"


def jain(shares: Sequence[float]) -> float:
    """1: all the same; 1/n: one has everything."""
    squares = sum(share * share for share in shares)
    return sum(shares) ** 2 / (len(shares) * squares) if squares else 1.0


def as_markdown(rows: Iterable[Row]) -> str:
    marks = {True: "yes", False: "**no**", None: ""}
    lines = ["| what | measured | aim | met | |", "|---|---|---|---|---|"]
    lines += [f"| {row.what} | {row.measured} | {row.aim} | {marks[row.met]} | {row.note} |" for row in rows]
    return "\n".join(lines)
