"""Every file that is made for a person: whole or not there, also after a power cut, and its owner's alone."""

from __future__ import annotations

import io
import os
import resource
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.command_line import PASSPHRASE, CommandLine, back_up, quick_passphrases
from tests.durability import PowerCut

ROOT = Path(__file__).parents[2]
CBTFLEET = (sys.executable, "-m", "scheduler.cli")
METADATA = b"an XVA" * 1000


@pytest.fixture
def command(cbtfleet: CommandLine, monkeypatch: pytest.MonkeyPatch) -> CommandLine:
    monkeypatch.setenv("CBTFLEET_PASSPHRASE", PASSPHRASE)
    quick_passphrases(monkeypatch)
    return cbtfleet


def init(command: CommandLine, watch: Callable[[], PowerCut]) -> tuple[PowerCut, list[Path]]:
    cut = watch()
    return cut, [Path(name) for name in command.json("init")["files"]]


def recover(command: CommandLine, watch: Callable[[], PowerCut]) -> tuple[PowerCut, list[Path]]:
    created = command.json("init")
    private = command.folder / "keys" / "private.key"
    private.unlink()
    sys.stdin = io.StringIO(created["recovery_key"] + "\n")  # monkeypatch puts the old one back
    cut = watch()
    return cut, [Path(command.json("recover-key")["file"])]


def restore_disk(command: CommandLine, watch: Callable[[], PowerCut]) -> tuple[PowerCut, list[Path]]:
    command("init")
    point, _ = back_up(command)
    cut = watch()
    return cut, [Path(command.json("restore", point.id, "--to", str(command.folder / "disk"))["file"])]


def restore_disk_again(command: CommandLine, watch: Callable[[], PowerCut]) -> tuple[PowerCut, list[Path]]:
    command("init")
    point, _ = back_up(command)
    target = command.folder / "disk"
    target.write_text("of another point")
    target.chmod(0o644)
    cut = watch()
    return cut, [Path(command.json("restore", point.id, "--force", "--to", str(target))["file"])]


def restore_metadata(command: CommandLine, watch: Callable[[], PowerCut]) -> tuple[PowerCut, list[Path]]:
    command("init")
    point, _ = back_up(command, metadata=METADATA)
    target = str(command.folder / "web.xva")
    cut = watch()
    return cut, [Path(command.json("restore", point.id, "--metadata", "--to", target)["file"])]


def restore_metadata_again(
    command: CommandLine, watch: Callable[[], PowerCut]
) -> tuple[PowerCut, list[Path]]:
    command("init")
    point, _ = back_up(command, metadata=METADATA)
    target = command.folder / "web.xva"
    target.write_text("of another point")
    target.chmod(0o644)
    args = ("restore", point.id, "--metadata", "--force", "--to", str(target))
    cut = watch()
    return cut, [Path(command.json(*args)["file"])]


@pytest.mark.parametrize(
    "make", [init, recover, restore_disk, restore_disk_again, restore_metadata, restore_metadata_again]
)
def test_it_is_safe_from_a_power_cut_and_nobody_else_may_read_it(
    command: CommandLine,
    make: Callable[[CommandLine, Callable[[], PowerCut]], tuple[PowerCut, list[Path]]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO())
    before = os.umask(0)
    try:
        cut, files = make(command, lambda: PowerCut(monkeypatch, command.folder))
    finally:
        os.umask(before)
    assert files
    assert [stat.S_IMODE(path.stat().st_mode) for path in files] == [0o600] * len(files)
    assert cut.would_take() == []
    assert not [path for path in command.folder.rglob(".*") if path.is_file()]


def test_a_full_disk_leaves_the_metadata_that_were_there(command: CommandLine) -> None:
    """The limit of a file's size stands for the full disk: both end a write half-way."""
    command("init")
    point, _ = back_up(command, metadata=METADATA)
    folder = command.folder / "out"
    folder.mkdir()
    target = folder / "web.xva"
    target.write_text("of another point")
    arguments = ["restore", point.id, "--metadata", "--force", "--to", str(target)]
    done = subprocess.run(
        [*CBTFLEET, "--config", str(command.config), *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000)),
    )
    assert done.returncode == 1
    assert done.stderr == f"cbtfleet: cannot write {target}: file too large; nothing is left of it\n"
    assert {path.name: path.read_text() for path in folder.iterdir()} == {"web.xva": "of another point"}


def test_no_link_is_followed_and_no_device_replaced(command: CommandLine) -> None:
    command("init")
    point, _ = back_up(command, metadata=METADATA)
    precious, target = command.folder / "precious", command.folder / "web.xva"
    precious.write_text("precious")
    target.symlink_to(precious)
    done = command("restore", point.id, "--metadata", "--force", "--to", str(target))
    assert (done.code, "is not a regular file" in done.said) == (2, True)
    assert precious.read_text() == "precious"
