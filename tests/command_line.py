"""The command line in this process: one folder, one configuration, one call at a time."""

from __future__ import annotations

import json
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from scheduler import cli
from scheduler.commands import init, recover_key
from tests.repository_machine import VM, Machine
from workers.extents import Plan
from workers.repository import (
    Point,
    Repository,
    create_repository,
    load_private_keys,
    open_store,
    recover_private_key,
)
from workers.settings import load_settings

PASSPHRASE = "correct horse battery staple"
DISK_SIZE = 5 * 65536 - 1000

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


def quick_passphrases(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousandth of the usual work to guess a passphrase."""
    monkeypatch.setattr(init, "create_repository", partial(create_repository, scrypt_log_n=10))
    monkeypatch.setattr(recover_key, "recover_private_key", partial(recover_private_key, scrypt_log_n=10))


def back_up(cbtfleet: CommandLine, run: str = "run-1", metadata: bytes | None = None) -> tuple[Point, bytes]:
    """One restore point of one disk, as scheduler and workers would write it; and the disk's content."""
    settings = load_settings(cbtfleet.config).repository
    with closing(open_store(settings)) as store:
        keys = load_private_keys(store, settings, lambda: PASSPHRASE)
        machine = Machine(store, keys, DISK_SIZE)  # type: ignore[arg-type]
        machine.write([0, 1, 4])
        disk = machine.backup(run, Plan.full(DISK_SIZE))
        point = machine.point(run, disk.segments)
        repository = Repository.open(store, keys)
        if metadata is not None:
            point = replace(point, metadata=repository.keep_vm_metadata(run, VM, metadata))
        repository.commit_point(point)
        return point, bytes(machine.content)
