"""A test leaves nothing running: what it has not ended itself is named, ended, and fails that very test.

Otherwise the next tests pay: what is left holds its port, writes to their Redis, or takes their CPU.
"""

from __future__ import annotations

import gc
import os
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Set
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

MARK = "STARTED_BY_TESTS"
"""In the environment of all that tests start: so what has outlived its parent is found, too."""

PATIENCE = 10.0
"""Seconds for what ends by itself: a process whose parent was killed, the thread of a closed connection."""

_LAST_PATIENCE = 5.0
"""Seconds from SIGTERM to SIGKILL."""

T = TypeVar("T")


@dataclass(frozen=True)
class Running:
    """What runs as a test begins, and may go on after it."""

    children: Set[int]
    threads: Set[threading.Thread]
    used_by_ended: tuple[float, int]
    """CPU seconds and page faults of ended children: others when one was started and has ended meanwhile."""


def mark_what_is_started() -> None:
    """By this process, from now on."""
    os.environ[MARK] = f"{os.getpid()}.{time.time_ns()}"


def what_runs() -> Running:
    return Running(_children(), set(threading.enumerate()), _used_by_ended())


def end_what_is_left(before: Running, lasting: Iterable[int] = (), patience: float = PATIENCE) -> list[str]:
    """What still runs `patience` seconds after a test, in words. Processes are ended, a thread cannot be.

    `lasting`: processes that are meant to outlive the test.
    """
    kept = before.children | set(lasting)
    processes = _what_stays(lambda: _processes_since(before, kept), patience)
    lines = [f"process {pid}: {_command(pid)}" for pid in sorted(processes)]
    for number in (signal.SIGTERM, signal.SIGKILL):
        for pid in processes:
            with suppress(ProcessLookupError):
                os.kill(pid, number)
        processes = _what_stays(lambda left=processes: set(filter(_runs, left)), _LAST_PATIENCE)
    if _threads_since(before):
        gc.collect()  # an exception that a test has caught keeps the sockets of its frames, in a cycle
    threads = _what_stays(lambda: _threads_since(before), patience)
    return lines + [f"thread {each.name}, at {_place(each)}" for each in threads]


def _what_stays(look: Callable[[], set[T]], patience: float) -> set[T]:
    until = time.monotonic() + patience
    while (found := look()) and time.monotonic() < until:
        time.sleep(0.02)
    return found


def _processes_since(before: Running, kept: Set[int]) -> set[int]:
    found = {pid for pid in _children() - kept if _runs(pid)}
    if not found and before.used_by_ended == _used_by_ended():
        return set()  # nothing was started: the usual case, and looking at every process takes 20 ms
    mark = f"{MARK}={os.environ.get(MARK)}".encode()
    for folder in Path("/proc").glob("[0-9]*"):
        pid = int(folder.name)
        with suppress(OSError):
            if mark in (folder / "environ").read_bytes().split(b"\0") and _runs(pid):
                found.add(pid)
    return {pid for pid in found if not kept & _ancestors(pid)} - kept


def _threads_since(before: Running) -> set[threading.Thread]:
    return set(threading.enumerate()) - before.threads


def _children() -> set[int]:
    tasks = Path("/proc/self/task").glob("[0-9]*/children")
    return {int(pid) for task in tasks for pid in _read(task).split()}


def _used_by_ended() -> tuple[float, int]:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime, used.ru_minflt


def _ancestors(pid: int) -> set[int]:
    found = set()
    while pid > 1:
        pid = int(_stat(pid)[1]) if _stat(pid) else 0
        found.add(pid)
    return found


def _runs(pid: int) -> bool:
    """False for a zombie: it has ended, though nobody has asked how."""
    return bool(_stat(pid)) and _stat(pid)[0] not in "ZX"


def _stat(pid: int) -> list[str]:
    """State, parent and so on (proc(5)); empty when there is no such process."""
    return _read(Path(f"/proc/{pid}/stat")).rpartition(")")[2].split()


def _command(pid: int) -> str:
    return _read(Path(f"/proc/{pid}/cmdline")).replace("\0", " ").strip()[:500]


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def _place(thread: threading.Thread) -> str:
    frame = sys._current_frames().get(thread.ident or 0)
    return "its end" if frame is None else f"{frame.f_code.co_filename}:{frame.f_lineno}"
