"""`cbtfleet doctor`: is everything in place?"""

from __future__ import annotations

import typer
from rich.console import Console
from rich.text import Text

from scheduler.checks.check import Check
from scheduler.commands.invocation import FAILED, ConfigOption, Invocation, JsonOption, end
from scheduler.doctor import examine, worst

_MARKS = {"ok": ("ok", "green"), "warning": ("warning", "yellow"), "failed": ("FAILED", "bold red")}


def doctor(context: typer.Context, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Check configuration, store, keys, Redis, pools and clocks; say what to do."""
    invocation = Invocation.of(context, config, as_json)
    settings = invocation.settings()
    checks = list(examine(settings, invocation.settings_file))
    state = worst(checks)
    invocation.answer(
        {"status": state, "checks": [check.as_json() for check in checks]},
        lambda console: _show(console, checks),
    )
    if state == "failed":
        end(FAILED)


def _show(console: Console, checks: list[Check]) -> None:
    names = max(len(check.name) for check in checks)
    for check in checks:
        mark, style = _MARKS[check.state]
        console.print(Text.assemble((f"{mark:8}", style), f"{check.name:{names}}  {check.said}"))
        if check.todo:
            console.print(Text(f"{'':{names + 8}}  -> {check.todo}", style="bold"))
    counts = {state: sum(check.state == state for check in checks) for state in _MARKS}
    console.print(f"\n{counts['ok']} ok, {counts['warning']} to look at, {counts['failed']} failed.")
