"""Child processes that end with us, one way or another."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import IO

_PR_SET_PDEATHSIG = 1
"""From linux/prctl.h; see prctl(2)."""

# Looked up before any fork: between fork and exec it is too late to load a library safely.
_prctl = ctypes.CDLL(None).prctl if sys.platform == "linux" else None


def end_with_parent() -> None:
    """For `preexec_fn`: the child gets SIGTERM when we die without having stopped it (Linux only)."""
    if _prctl is not None:
        _prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def start(
    command: Sequence[str],
    environment: Mapping[str, str] | None = None,
    stdout: int | IO[bytes] | None = None,
    stderr: int | IO[bytes] | None = None,
) -> subprocess.Popen[bytes]:
    """Starts a child in a session of its own, so that a terminal's Ctrl-C reaches us alone and we choose
    the order in which children stop. Its output goes where ours goes, unless said otherwise."""
    return subprocess.Popen(
        list(command),
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=stderr,
        env=None if environment is None else dict(environment),
        start_new_session=True,
        preexec_fn=end_with_parent,
    )


def stop(process: subprocess.Popen[bytes], patience: float) -> int:
    """SIGTERM, then SIGKILL to its process group after `patience` seconds; returns its exit code."""
    if process.poll() is None:
        process.terminate()
        try:
            return process.wait(patience)
        except subprocess.TimeoutExpired:
            kill_group(process)
    return process.wait()


def kill_group(process: subprocess.Popen[bytes]) -> None:
    """SIGKILL for the child and everything it started in its session (a Celery node's pool processes)."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        process.kill()  # does nothing when it has ended
