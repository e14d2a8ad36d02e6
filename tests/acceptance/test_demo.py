"""`cbtfleet demo --keep`, as a person starts it, plays with it and ends it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.until import PATIENCE

ROOT = Path(__file__).parents[2]


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """Redis's socket is below it, and a socket's path has 107 bytes at most (unix(7))."""
    with tempfile.TemporaryDirectory(prefix="demo-") as folder:
        yield Path(folder)


@pytest.mark.slow
def test_the_demo_is_right_can_be_played_with_and_leaves_nothing(short_folder: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "scheduler.cli", "demo", "--keep", "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(short_folder)},
    ) as process:
        assert process.stdout is not None
        told = json.loads(process.stdout.readline())
        assert (told.get("status"), told.get("faults")) == ("succeeded", []), told
        assert [run["status"] for run in told["runs"]] == ["succeeded", "succeeded"]
        assert len(told["restores"]) == 8
        assert all(restore["same"] for restore in told["restores"])
        assert all(0 < host["peak"] <= host["cap"] for host in told["connections"].values())

        # As the printed advice says: source the environment, then use the command line.
        [folder] = short_folder.glob("cbtfleet-demo-*")
        play = f". {folder}/environment && {sys.executable} -m scheduler.cli points --json"
        played = subprocess.run(["sh", "-c", play], capture_output=True, text=True, cwd=ROOT, check=True)
        assert len(json.loads(played.stdout)["points"]) == 4

        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, err
    assert "Ctrl-C here stops everything" in err
    assert list(short_folder.iterdir()) == []
