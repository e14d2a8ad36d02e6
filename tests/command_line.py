"""The command line in this process: one folder, one configuration, one call at a time."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from scheduler import cli

PASSPHRASE = "correct horse battery staple"

CONFIGURATION = """
[repository]
url = "file://{folder}/store"
public_key_file = "keys/public.key"
metadata_key_file = "keys/metadata.key"
private_key_file = "keys/private.key"
"""


@dataclass(frozen=True)
class Done:
    """One finished call."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        """The one object on stdout."""
        assert self.out.count("\n") == 1, self.out
        found: dict[str, Any] = json.loads(self.out)
        return found

    @property
    def said(self) -> str:
        """The one line on stderr, without its beginning."""
        [line] = self.err.splitlines()
        assert line.startswith("cbtfleet: "), line
        return line.removeprefix("cbtfleet: ")


class CommandLine:
    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder = folder
        self._capsys = capsys
        (folder / "store").mkdir()
        self.configure(CONFIGURATION)

    @property
    def config(self) -> Path:
        return self.folder / "cbtfleet.toml"

    def configure(self, text: str) -> None:
        self.config.write_text(text.replace("{folder}", str(self.folder)))

    def bare(self, *arguments: str) -> Done:
        """Without --config."""
        self._capsys.readouterr()
        code = cli.run(arguments)
        captured = self._capsys.readouterr()
        return Done(code, captured.out, captured.err)

    def __call__(self, *arguments: str) -> Done:
        return self.bare("--config", str(self.config), *arguments)

    def json(self, *arguments: str, expect: int = 0) -> dict[str, Any]:
        done = self(*arguments, "--json")
        assert done.code == expect, done
        return done.json
