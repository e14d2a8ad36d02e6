"""`cbtfleet doctor`: would tonight's backups succeed, and if not, what is to be done?"""

from __future__ import annotations

from itertools import groupby
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from scheduler.checks.check import Check
from scheduler.checks.doctor import examine, worst
from scheduler.commands.invocation import FAILED, ConfigOption, Invocation, JsonOption, end

_MARKS = {"ok": ("ok", "green"), "warning": ("warning", "yellow"), "failed": ("PROBLEM", "bold red")}
_MARK_WIDTH = 9


def doctor(
    context: typer.Context,
    verbose: Annotated[bool, typer.Option("--verbose", help="A line for every disk and VM.")] = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Check configuration, store, keys, Redis, pools, disks and clocks; say what to do."""
    invocation = Invocation.of(context, config, as_json)
    settings = invocation.settings()
    checks = examine(settings, invocation.settings_file, all_of_them=verbose)
    state = worst(checks)
    invocation.answer(
        {"status": state, "checks": [check.as_json() for check in checks]},
        lambda console: _show(console, checks),
    )
    if state == "failed":
        end(FAILED)


def _show(console: Console, checks: list[Check]) -> None:
    width = max(len(_short(check.name)) for check in checks)
    for subject, group in groupby(checks, key=lambda check: check.subject):
        console.print(Text(subject, style="bold"))
        said = ""
        for check in group:
            mark, style = _MARKS[check.state]
            line = f"{_short(check.name):{width}}  {check.said}"
            console.print(Text.assemble("  ", (f"{mark:{_MARK_WIDTH}}", style), line))
            if check.todo and check.todo != said:
                console.print(Text(f"{'':{width + _MARK_WIDTH + 4}}-> {check.todo}", style="bold"))
            said = check.todo
    counts = {state: sum(check.state == state for check in checks) for state in _MARKS}
    end_line = (
        f"\n{counts['ok']} ok, {counts['warning']} to look at, {counts['failed']} that would make a run fail."
    )
    console.print(Text(end_line))


def _short(name: str) -> str:
    """The heading says what it belongs to."""
    return name.partition(".")[2] or name
