"""A run as it goes: rate, time left, what is shown, and what is hidden from a pipe."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import Any

import pytest
from rich.console import Console

from scheduler.commands.verify import confidence
from scheduler.terminal.progress_view import (
    ProgressView,
    RateMeter,
    Totals,
    disk_rows,
    rate_so_far,
    summary_line,
)
from scheduler.terminal.tables import TextTable, duration, size
from tests.fleet_clock import FULL_DISK
from workers.fleet import DiskProgress, RunProgress, VmProgress

MIB = 1 << 20


def disk(name: str = "root", **changes: Any) -> DiskProgress:
    values: dict[str, Any] = {
        "disk": f"vdi-{name}",
        "vm": "vm-1",
        "state": "streaming",
        "batches": 4,
        "done": 1,
        "read_bytes": 32 * MIB,
        "stored_bytes": 10 * MIB,
        "started": 0.0,
        "ended": None,
        "streams": 1,
        "attempts": 0,
        "error": None,
        "facts": replace(FULL_DISK, name=name, changed_bytes=128 * MIB),
    }
    return DiskProgress(**(values | changes))


def run_of(*disks: DiskProgress, state: Any = "running", cancelled: bool = False) -> RunProgress:
    vms = [VmProgress("vm-1", "streaming", b"")]
    return RunProgress("run-1", state, cancelled, 0.0, None, vms, list(disks))


def test_the_rate_is_that_of_the_last_seconds() -> None:
    meter = RateMeter()
    assert meter.rate is None
    meter.see(0, 0)
    assert meter.rate is None
    meter.see(1, 100)
    assert meter.rate == 100
    for second in range(2, 40):
        meter.see(second, 100 + 10 * (second - 1))
    assert meter.rate == pytest.approx(10)


def test_the_rate_of_one_look_is_that_of_the_disks_that_stream() -> None:
    assert rate_so_far([], 10) is None
    assert rate_so_far([disk(started=10.0)], 10) is None
    done = disk(state="complete", started=0.0, read_bytes=100 * MIB)
    assert rate_so_far([done, disk(started=6.0), disk(started=8.0)], 10) == 16 * MIB


def test_totals_and_time_left() -> None:
    totals = Totals.of(
        [
            disk(),
            disk(
                "complete",
                state="complete",
                read_bytes=10 * MIB,
                facts=replace(FULL_DISK, changed_bytes=10 * MIB),
            ),
            disk("failed", state="failed", read_bytes=5 * MIB, error="why"),
        ]
    )
    assert (totals.disks, totals.ended, totals.failed) == (3, 2, 1)
    assert totals.planned == (128 + 10 + 5) * MIB
    assert totals.seconds_left(MIB) == 96
    assert totals.seconds_left(0) is None
    assert totals.seconds_left(None) is None
    assert Totals.of([]).fraction == 0


@pytest.mark.parametrize(
    ("progress", "shown", "hidden"),
    [
        (run_of(state="planning"), ["planning"], ["disks", "left"]),
        (run_of(disk()), ["0 of 1 disks", "25 % of 128 MiB", "about 1 min 36 s left"], ["failed"]),
        (run_of(disk(state="failed")), ["1 of 1 disks, 1 failed"], ["left"]),
        (run_of(disk(state="complete")), ["writing restore points"], ["left"]),
        (run_of(disk(), cancelled=True), ["cancelling"], []),
        (run_of(disk(), state="ended", cancelled=True), ["ended"], ["cancelling", "left"]),
    ],
)
def test_the_line(progress: RunProgress, shown: list[str], hidden: list[str]) -> None:
    line = summary_line("run-1", progress, Totals.of(progress.disks), MIB)
    assert all(text in line for text in shown), line
    assert not any(text in line for text in hidden), line


def text_of(progress: RunProgress) -> str:
    out = io.StringIO()
    Console(file=out, width=200).print(disk_rows(progress))
    return out.getvalue()


def test_rows_show_what_matters_first() -> None:
    many = [disk(f"disk-{number:03d}", state="complete") for number in range(300)]
    shown = text_of(run_of(*many, disk("bad", state="failed", error="the host [is] on fire"), disk("busy")))
    lines = shown.splitlines()
    assert "the host [is] on fire" in lines[0]
    assert "busy" in lines[1]
    assert "web" in lines[1]
    assert "290 more" in lines[-1]
    assert len(lines) == 13


def test_a_pipe_gets_few_lines_and_no_control_characters() -> None:
    out = io.StringIO()
    now = 0.0
    with ProgressView("run-1", Console(file=out, force_terminal=False), clock=lambda: now) as view:
        for second in range(20):
            now = float(second)
            view.update(run_of(disk(read_bytes=second * MIB)), "no worker is running")
    lines = out.getvalue().splitlines()
    assert len(lines) == 4
    assert all("no worker is running" in line for line in lines)
    assert "\x1b" not in out.getvalue()


def test_a_terminal_sees_rows_and_is_left_tidy() -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=120)
    with ProgressView("run-1", console) as view:
        view.update(run_of(disk()))
        view._live.refresh()
        assert "root" in out.getvalue()
    assert out.getvalue().endswith("\x1b[2K") or "\x1b[?25h" in out.getvalue()  # the cursor is back


@pytest.mark.parametrize(
    ("count", "shown"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1536, "1.5 KiB"),
        (96 * MIB, "96 MiB"),
        (1023 * MIB, "1023 MiB"),
        (5 << 40, "5 TiB"),
    ],
)
def test_sizes(count: int, shown: str) -> None:
    assert size(count) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0, "0.0 s"),
        (9.94, "9.9 s"),
        (59.4, "59 s"),
        (60, "1 min 00 s"),
        (3599, "59 min 59 s"),
        (7830, "2 h 10 min"),
    ],
)
def test_durations(seconds: float, shown: str) -> None:
    assert duration(seconds) == shown


def test_a_table_is_never_cut_off() -> None:
    table = TextTable("one", "two")
    table.add_row("x" * 300, "")
    table.add_row("y", "z")
    assert str(table).splitlines() == ["one" + " " * 299 + "two", "x" * 300, "y" + " " * 301 + "z"]


def test_what_a_sample_says() -> None:
    assert "0.3 % of the blocks" in confidence(1000)
