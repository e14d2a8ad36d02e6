"""A scheduler in which a loop died ends, with a code that is not 0: a real process."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from scheduler import cli
from scheduler.background_loop import DIED
from scheduler.single_machine import children
from scheduler.single_machine.up import FINAL, Service
from tests.until import until

ROOT = Path(__file__).parents[3]


@pytest.fixture
def config(tmp_path: Path, redis_url: str) -> Path:
    config = tmp_path / "cbtfleet.toml"
    (tmp_path / "store").mkdir()
    config.write_text(
        f'[redis]\nurl = "{redis_url}"\n[repository]\nurl = "file://{tmp_path}/store"\n'
        "[metrics]\nscheduler_port = 0\n"
    )
    assert cli.run(["--config", str(config), "init", "--unencrypted"]) == 0
    return config


def command(config: Path, loop: str, error: str) -> list[str]:
    return [sys.executable, "-m", "tests.unit.scheduler.dying_scheduler", str(config), loop, error]


@pytest.mark.parametrize(
    ("loop", "name", "error"),
    [
        ("Pump", "pump", "MemoryError"),
        ("Reconciler", "reconciler", "SystemExit"),
        ("Resumer", "resumer", "MemoryError"),
        ("Triggers", "triggers", "KeyboardInterrupt"),
        ("GarbageCollector", "garbage-collector", "MemoryError"),
        ("Pump", "pump", "RuntimeError"),
    ],
)
def test_a_scheduler_with_a_dead_loop_ends_and_says_why(
    config: Path, loop: str, name: str, error: str
) -> None:
    done = subprocess.run(
        command(config, loop, error), capture_output=True, text=True, cwd=ROOT, timeout=60, check=False
    )
    assert done.returncode == DIED, done.stderr
    lines = [json.loads(line) for line in done.stderr.splitlines() if line.startswith("{")]
    [line] = [line for line in lines if line["level"] == "critical"]
    assert line["message"] == (
        f"the loop {name} died of {error}: this scheduler ends, with code 1, to be started again"
    )
    assert error in line["traceback"]


def test_whoever_supervises_it_starts_it_again(config: Path) -> None:
    service = Service("scheduler", command(config, "Pump", "MemoryError"), patience=5)
    found: list[int] = []

    def tend() -> bool:
        code = service.tend(time.monotonic())
        found.extend([] if code is None else [code])
        return len(found) == 2

    try:
        until(tend, timeout=60)
    finally:
        if service.process is not None:
            children.kill_group(service.process)
    assert found == [DIED, DIED]
    assert DIED not in (0, *FINAL)
