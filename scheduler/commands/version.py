"""`cbtfleet version`."""

from __future__ import annotations

import platform
from importlib.metadata import version as installed_version

import typer

from scheduler.commands.invocation import ConfigOption, Invocation, JsonOption


def version(context: typer.Context, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Print the version."""
    found = installed_version("cbtfleet")
    python = platform.python_version()
    Invocation.of(context, config, as_json).answer(
        {"version": found, "python": python},
        lambda console: console.print(f"cbtfleet {found} (Python {python})"),
    )
