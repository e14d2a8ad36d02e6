"""A run as it goes: live on a terminal, one line every few seconds elsewhere. Always on stderr.

run 20261122T010203Z-3fa9c1   running   2 of 5 disks   41 %   118 MiB/s   about 3 min left
  vm-1  root   full          [=======     ]  58 %   1.2 GiB read
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import TracebackType

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from scheduler.terminal.tables import duration, size
from workers.fleet import DiskProgress, RunProgress

MOST_ROWS = 12
"""Disks shown at once: a fleet has hundreds, a terminal 24 lines."""

RATE_WINDOW = 15.0
"""Seconds that a rate looks back: long enough for 32 MiB batches to arrive evenly."""

LINE_EVERY = 5.0


@dataclass
class RateMeter:
    """Bytes a second over the last `RATE_WINDOW` seconds, from a growing total."""

    _seen: deque[tuple[float, int]] = field(default_factory=deque)

    def see(self, now: float, total: int) -> None:
        self._seen.append((now, total))
        while now - self._seen[0][0] > RATE_WINDOW and len(self._seen) > 2:
            self._seen.popleft()

    @property
    def rate(self) -> float | None:
        """None until two totals were seen some time apart."""
        if len(self._seen) < 2 or self._seen[-1][0] <= self._seen[0][0]:
            return None
        (first, before), (last, after) = self._seen[0], self._seen[-1]
        return max(0.0, (after - before) / (last - first))


@dataclass(frozen=True)
class Totals:
    """A run in a few numbers; bytes are those planned to be read and those read."""

    disks: int
    ended: int
    failed: int
    planned: int
    read: int
    stored: int

    @classmethod
    def of(cls, disks: Sequence[DiskProgress]) -> Totals:
        return cls(
            disks=len(disks),
            ended=sum(disk.state != "streaming" for disk in disks),
            failed=sum(disk.state == "failed" for disk in disks),
            planned=sum(planned_bytes(disk) for disk in disks),
            read=sum(disk.read_bytes for disk in disks),
            stored=sum(disk.stored_bytes for disk in disks),
        )

    @property
    def fraction(self) -> float:
        return min(1.0, self.read / self.planned) if self.planned else 0.0

    def seconds_left(self, rate: float | None) -> float | None:
        if not rate or not self.planned:
            return None
        return max(0, self.planned - self.read) / rate


def planned_bytes(disk: DiskProgress) -> int:
    """What this disk will have read when it is complete: one that ended early: what it read."""
    if disk.state != "streaming":
        return disk.read_bytes
    return max(disk.facts.changed_bytes if disk.facts is not None else 0, disk.read_bytes)


def rate_so_far(disks: Sequence[DiskProgress], now: float) -> float | None:
    """Bytes a second since the first disk that still streams began; for one look only. `now`: since 1970."""
    streaming = [disk for disk in disks if disk.state == "streaming"]
    began = min((disk.started for disk in streaming), default=now)
    return sum(disk.read_bytes for disk in streaming) / (now - began) if now > began else None


def summary_line(run: str, progress: RunProgress, totals: Totals, rate: float | None) -> str:
    parts = [
        f"run {run}",
        "cancelling" if progress.cancelled and progress.state != "ended" else progress.state,
    ]
    if totals.disks:
        failed = f", {totals.failed} failed" if totals.failed else ""
        parts.append(f"{totals.ended} of {totals.disks} disks{failed}")
        parts.append(f"{totals.fraction * 100:.0f} % of {size(totals.planned)}")
        parts.append(f"{size(totals.stored)} stored")
    if totals.disks and totals.ended == totals.disks and progress.state == "running":
        parts.append("writing restore points, cleaning up")
    elif rate is not None and progress.state == "running":
        parts.append(f"{size(rate)}/s")
        left = totals.seconds_left(rate)
        parts += [f"about {duration(left)} left"] if left is not None else []
    return "   ".join(parts)


def disk_rows(progress: RunProgress) -> Table:
    """The disks worth a look: failed ones, then those streaming, then the rest, at most MOST_ROWS."""
    order = {"failed": 0, "streaming": 1, "cancelled": 2, "complete": 3}
    disks = progress.disks
    chosen = sorted(disks, key=lambda disk: (order.get(disk.state, 4), -disk.done))[:MOST_ROWS]
    table = Table.grid(padding=(0, 2))
    for disk in chosen:
        bar = ProgressBar(total=disk.batches or 1, completed=disk.done if disk.batches else 1, width=20)
        percent = f"{disk.done / disk.batches * 100:3.0f} %" if disk.batches else "  - "
        said = disk.error or f"{size(disk.read_bytes)} read, {size(disk.stored_bytes)} stored"
        facts = disk.facts
        table.add_row(
            "",
            Text(facts.vm_name if facts is not None else disk.vm),
            Text((facts.name if facts is not None else "") or disk.disk),
            facts.mode if facts is not None else "",
            bar,
            percent,
            disk.state,
            Text(said),
        )
    if len(disks) > len(chosen):
        table.add_row("", f"and {len(disks) - len(chosen)} more")
    return table


class ProgressView:
    """`update` it with what the ledger says; a context manager, as a terminal must be left tidy."""

    def __init__(
        self, run: str, console: Console | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._run = run
        self._console = console or Console(stderr=True, highlight=False)
        self._clock = clock
        self._meter = RateMeter()
        self._last_line = ("", float("-inf"))
        self._live = Live(console=self._console, refresh_per_second=4, transient=True)

    def update(self, progress: RunProgress, hint: str | None = None) -> None:
        """Shows it; `hint`: why nothing happens, when something is known to be missing."""
        now = self._clock()
        totals = Totals.of(progress.disks)
        self._meter.see(now, totals.read)
        line = summary_line(self._run, progress, totals, self._meter.rate)
        if self._console.is_terminal:
            rows: list[RenderableType] = [Text(line), disk_rows(progress)]
            if hint is not None:
                rows.append(Text(hint, style="yellow"))
            self._live.update(Group(*rows))
            return
        line = line if hint is None else f"{line}   ({hint})"
        if line != self._last_line[0] and now - self._last_line[1] >= LINE_EVERY:
            self._console.print(line, markup=False, soft_wrap=True)
            self._last_line = (line, now)

    def __enter__(self) -> ProgressView:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._console.is_terminal:
            self._live.stop()
