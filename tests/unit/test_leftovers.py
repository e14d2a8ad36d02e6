"""The tests' own guard: what a test leaves running is named and ended, and signals have their defaults."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.leftovers import end_what_is_left, what_runs

ROOT = Path(__file__).parents[2]
SLEEPER = [sys.executable, "-c", "import time; print('up', flush=True); time.sleep(600)"]

CONFTEST = "from tests.conftest import _nothing_is_left, lasting_processes, pytest_configure\n"
BAD_TEST = f"""
import subprocess, threading
from pathlib import Path

def test_fails_before_it_ends_what_it_started():
    process = subprocess.Popen({SLEEPER}, stdout=subprocess.PIPE)
    Path("pid").write_text(str(process.pid))
    assert False, "for its own reason"

def test_the_next_one_finds_nothing_of_it():
    assert not Path("/proc", Path("pid").read_text(), "exe").exists()
"""
TELL_SIGNALS = """
import subprocess, sys

def test_tell():
    tell = "import signal; print([str(signal.getsignal(each)) for each in (2, 15)])"
    print(subprocess.run([sys.executable, "-c", tell], capture_output=True, text=True).stdout)
"""


def pytest_says(folder: Path, test: str, *before: str) -> str:
    """What the tests' own pytest says of this test file, started by the command `before`."""
    (folder / "conftest.py").write_text(CONFTEST)
    (folder / "test_it.py").write_text(test)
    command = [sys.executable, "-m", "pytest", "-sq", "-p", "no:cacheprovider", "--rootdir", str(folder), "."]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [*before, *command], cwd=folder, env=environment, capture_output=True, text=True, timeout=120
    )
    return done.stdout


def test_nothing_is_left_by_who_ends_what_he_starts() -> None:
    before = what_runs()
    with subprocess.Popen(SLEEPER, stdout=subprocess.PIPE) as process:
        process.kill()
    thread = threading.Thread(target=lambda: None)
    thread.start()
    assert end_what_is_left(before, patience=5) == []


def test_a_child_is_named_and_ended_though_it_does_not_listen() -> None:
    deaf = "import signal, time; signal.signal(15, signal.SIG_IGN); print(1, flush=True); time.sleep(600)"
    before = what_runs()
    with subprocess.Popen([sys.executable, "-c", deaf], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        [line] = end_what_is_left(before, patience=0)
        assert process.wait(0) == -signal.SIGKILL
    assert line.startswith(f"process {process.pid}: {sys.executable} -c import signal")


def test_what_was_there_before_or_is_meant_to_last_stays() -> None:
    with (
        subprocess.Popen(SLEEPER, stdout=subprocess.PIPE) as earlier,
        subprocess.Popen(SLEEPER, stdout=subprocess.PIPE) as lasting,
    ):
        before = what_runs()
        assert end_what_is_left(before, patience=0) == []
        before = type(before)(before.children - {lasting.pid}, before.threads, before.used_by_ended)
        assert end_what_is_left(before, {lasting.pid}, patience=0) == []
        assert (earlier.poll(), lasting.poll()) == (None, None)
        earlier.kill()
        lasting.kill()


def test_a_process_that_has_outlived_its_parent_is_found_by_its_environment() -> None:
    before = what_runs()
    detached = "start_new_session=True, stdout=-3, stderr=-3"
    program = f"import subprocess; print(subprocess.Popen({SLEEPER}, {detached}).pid)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    [line] = end_what_is_left(before, patience=0)
    assert line.startswith(f"process {done.stdout.strip()}: ")
    assert end_what_is_left(before, patience=0) == []


def test_a_thread_is_named_with_the_place_where_it_waits() -> None:
    before = what_runs()
    end = threading.Event()
    thread = threading.Thread(target=end.wait, name="waiter")
    thread.start()
    [line] = end_what_is_left(before, patience=0)
    assert line.startswith("thread waiter, at ")
    assert "threading.py" in line
    end.set()
    thread.join()


def test_a_failing_test_is_told_and_the_next_one_is_spared(tmp_path: Path) -> None:
    said = pytest_says(tmp_path, BAD_TEST)
    assert "for its own reason" in said
    assert "the test left running:" in said
    assert f"process {(tmp_path / 'pid').read_text()}: {sys.executable}" in said
    assert "1 failed, 1 passed, 1 error" in said


@pytest.mark.parametrize("ignored", ["", "INT TERM"])
def test_what_a_test_starts_has_the_default_signals(tmp_path: Path, ignored: str) -> None:
    """As in the background of a script: `exec` hands on what is ignored."""
    said = pytest_says(tmp_path, TELL_SIGNALS, "sh", "-c", f"trap '' {ignored}; exec \"$@\"", "sh")
    assert "default_int_handler" in said
    assert "'0'" in said, "Handlers.SIG_DFL"
