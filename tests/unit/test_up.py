"""`cbtfleet up` with real processes: it brings everything along, keeps it running, and stops all of it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from scheduler import cli
from scheduler.single_machine.embedded_redis import answers
from scheduler.single_machine.up import run_up
from tests.default_signals import IN_BACKGROUND
from tests.until import PATIENCE, until
from workers.errors import MachineUnfit
from workers.fleet import Ledger
from workers.settings import Settings

ROOT = Path(__file__).parents[2]


class Up:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config = folder / "cbtfleet.toml"
        (folder / "store").mkdir()
        self.config.write_text(f'[repository]\nurl = "file://{folder}/store"\n')
        self.process: subprocess.Popen[str] | None = None

    def start(self, *by: str) -> dict[str, Any]:
        """`by`: a command that becomes it."""
        with (self.folder / "up.log").open("a") as log:
            command = [*by, sys.executable, "-m", "scheduler.cli", "up", "--concurrency", "1", "--json"]
            self.process = subprocess.Popen(
                [*command, "--config", str(self.config)],
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                cwd=ROOT,
            )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, self.log
        return dict(json.loads(line))

    @property
    def log(self) -> str:
        return (self.folder / "up.log").read_text()

    def stop(self, number: int = signal.SIGTERM) -> int:
        assert self.process is not None
        assert self.process.stdout is not None
        self.process.send_signal(number)
        code = self.process.wait(PATIENCE)
        self.process.stdout.close()
        return code

    def until(self, true: Callable[[], bool]) -> None:
        """Fails at once when it has ended."""

        def true_or_ended() -> bool:
            assert self.process is not None
            assert self.process.poll() is None, self.log
            return true()

        until(true_or_ended, report=lambda: self.log)


@pytest.fixture
def up() -> Iterator[Up]:
    with tempfile.TemporaryDirectory(prefix="cbtfleet-") as name:
        up = Up(Path(name))
        assert cli.run(["--config", str(up.config), "init", "--unencrypted"]) == 0
        yield up
        if up.process is not None and up.process.poll() is None:
            up.stop(signal.SIGKILL)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_it_runs_everything_restarts_what_dies_and_stops_all(up: Up) -> None:
    processes = up.start()
    assert processes.keys() == {"scheduler", "worker", "redis", "redis_url"}
    with closing(Ledger.from_url(processes["redis_url"])) as ledger:
        assert ledger.barrier_left() == 0  # it is new, so nobody has to be waited for
        up.until(lambda: len(ledger.nodes()) == 1)
        up.until(lambda: "scheduler is ready" in up.log)

        os.kill(processes["scheduler"], signal.SIGKILL)
        up.until(lambda: "the scheduler ended with -9: starting it again" in up.log)
        up.until(lambda: up.log.count("scheduler is ready") == 2)

        os.kill(processes["redis"], signal.SIGKILL)
        up.until(lambda: "our own Redis ended with -9" in up.log)
        up.until(lambda: not alive(processes["redis"]))
        up.until(lambda: answers(up.folder / ".cbtfleet" / "redis.sock"))
    assert up.stop() == 0
    order = [up.log.index(f"stopping the {name}") for name in ("worker", "scheduler")]
    assert order == sorted(order)
    assert "everything is stopped" in up.log
    assert not any(alive(pid) for pid in processes.values() if isinstance(pid, int))
    assert children_left(up.folder) == []


def test_in_the_background_of_a_script_ctrl_c_is_not_for_it(up: Up) -> None:
    processes = up.start(*IN_BACKGROUND)
    assert up.process is not None
    up.process.send_signal(signal.SIGINT)
    os.kill(processes["scheduler"], signal.SIGKILL)
    up.until(lambda: "the scheduler ended with -9: starting it again" in up.log)
    up.until(lambda: "scheduler is ready" in up.log)
    assert "stopping" not in up.log
    os.kill(processes["worker"], signal.SIGINT)
    up.until(lambda: "the worker ended with" in up.log)
    assert up.stop() == 0


def children_left(folder: Path) -> list[str]:
    """Command lines of processes that still name this folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            text = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if str(folder) in text:
            found.append(text)
    return found


def test_its_children_end_when_it_is_killed(up: Up) -> None:
    processes = up.start()
    up.until(lambda: "scheduler is ready" in up.log)
    up.stop(signal.SIGKILL)
    until(lambda: not any(alive(pid) for pid in processes.values() if isinstance(pid, int)))


def test_a_machine_that_must_not_write_ends_all_of_it_and_is_not_started_again(
    tmp_path: Path, redis_url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The node's own end is judged in tests/acceptance/test_unfit_machine.py."""
    settings = Settings.model_validate(
        {"redis": {"url": redis_url}, "repository": {"url": f"file://{tmp_path}"}}
    )
    started = tmp_path / "started"
    unfit = f"open({str(started)!r}, 'a').write('x'); raise SystemExit({MachineUnfit.exit_code})"
    waits = [sys.executable, "-c", "import time; time.sleep(60)"]
    monkeypatch.setattr(
        "scheduler.single_machine.up.worker_command", lambda *_: [sys.executable, "-c", unfit]
    )
    monkeypatch.setattr("scheduler.single_machine.up.scheduler_command", lambda *_: waits)
    processes: dict[str, Any] = {}
    assert run_up(settings, tmp_path / "cbtfleet.toml", on_ready=processes.update) == 4
    assert started.read_text() == "x"
    assert (
        "the worker found that this machine must not write backups (its line is above): stopping"
        in caplog.text
    )
    assert not alive(processes["scheduler"])


def test_a_configuration_that_never_can_work_ends_it(up: Up) -> None:
    (up.folder / "store" / "config").unlink()
    with (up.folder / "up.log").open("a") as log:
        command = [sys.executable, "-m", "scheduler.cli", "up", "--config", str(up.config)]
        done = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=log, cwd=ROOT, timeout=PATIENCE, check=False
        )
    assert done.returncode == 2, up.log
    assert "cbtfleet: " in up.log
    assert "cannot work with this configuration" in up.log
    assert children_left(up.folder) == []
