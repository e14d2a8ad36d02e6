"""Fixtures shared by unit tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.command_line import CommandLine
from tests.fleet_clock import fleet

__all__ = ["cbtfleet", "fleet"]


@pytest.fixture
def cbtfleet(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> CommandLine:
    """The command line, with a configuration that names an encrypted repository in a folder."""
    for name in [name for name in os.environ if name.startswith("CBTFLEET_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    return CommandLine(tmp_path, capsys)
