"""What every command has in common: --config and --json, before or after its name, and how it answers."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.console import Console

from workers.errors import CbtfleetError
from workers.settings import Settings, find_settings_file, load_settings

ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config", metavar="FILE", help="The configuration; default: CBTFLEET_CONFIG, else cbtfleet.toml."
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]

FAILED = 1
CANCELLED = 3


@dataclass(frozen=True)
class Invocation:
    """One call of the command line."""

    config: Path | None = None
    as_json: bool = False

    @classmethod
    def of(cls, context: typer.Context, config: Path | None, as_json: bool) -> Invocation:
        """The options given after the command's name, else those given before it."""
        outer = context.obj if isinstance(context.obj, Invocation) else cls()
        return cls(config or outer.config, as_json or outer.as_json)

    @property
    def settings_file(self) -> Path:
        return find_settings_file(self.config)

    def settings(self) -> Settings:
        """Raises ConfigurationError."""
        return load_settings(self.config)

    def answer(self, document: Mapping[str, object], show: Callable[[Console], None]) -> None:
        """The command's result: `document` with --json, else what `show` prints for a person."""
        if self.as_json:
            print(json.dumps(document, ensure_ascii=False), flush=True)
        else:
            show(Console(highlight=False, soft_wrap=True))


def note(text: str) -> None:
    """One line beside the result, on stderr."""
    print(text, file=sys.stderr, flush=True)


def tell(error: CbtfleetError) -> None:
    """What is wrong and stops nothing: one line on stderr."""
    note(f"cbtfleet: {error}")


def end(code: int) -> NoReturn:
    raise typer.Exit(code)
