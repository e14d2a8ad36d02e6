"""Hooks: the operator's own commands around a VM's snapshot and after a run.

A hook gets the facts as one JSON document on stdin and a small environment (`PASSED_ON`): no password,
passphrase or key of ours or of S3. What it writes goes to a file, not to a pipe: a hook may leave a process
behind that holds its output open, or write without end, and neither must hang a step. Its last line is
logged.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import IO

from scheduler.policies.policy import Policy
from workers.errors import CbtfleetError, ConfigurationError

log = logging.getLogger(__name__)

BEFORE_SNAPSHOT, AFTER_SNAPSHOT, AFTER_RUN = "before_snapshot", "after_snapshot", "after_run"

PASSED_ON = ("PATH", "HOME", "USER", "LOGNAME", "LANG", "LC_ALL", "TZ", "TMPDIR")
"""The scheduler's environment variables that a hook gets; besides these it gets CBTFLEET_HOOK, its name."""

_TAIL = 4096
_LONGEST_LINE = 200
_GRACE = 5.0
"""Seconds between SIGTERM and SIGKILL for a hook that took too long."""


class HookFailed(CbtfleetError):
    """A hook could not be started, took too long, or ended with another code than 0."""


def run_hook(
    name: str, command: Sequence[str], facts: Mapping[str, object], timeout: float, about: str
) -> None:
    """Runs one hook to its end; `about` says in the log what it was run for. Raises HookFailed."""
    environment = {key: os.environ[key] for key in PASSED_ON if key in os.environ}
    with tempfile.TemporaryFile() as document, tempfile.TemporaryFile() as output:
        document.write(json.dumps({"hook": name, **facts}, ensure_ascii=False).encode() + b"\n")
        document.seek(0)
        try:
            process = subprocess.Popen(
                command,
                stdin=document,
                stdout=output,
                stderr=output,
                cwd="/",
                env=environment | {"CBTFLEET_HOOK": name},
                start_new_session=True,
            )
        except OSError as error:
            raise HookFailed(f"hook {name}: {command[0]} cannot be started: {error.strerror}") from error
        with process:
            code = _wait(process, timeout)
        said = _last_line(output)
    if said:
        log.info("%s: hook %s said: %s", about, name, said)
    if code is None:
        raise HookFailed(f"hook {name} ({command[0]}) was ended: it took longer than {timeout:g} s")
    if code != 0:
        how = f"ended with code {code}" if code > 0 else f"was ended by signal {-code}"
        raise HookFailed(f"hook {name} ({command[0]}) {how}" + (f": {said}" if said else ""))


def _wait(process: subprocess.Popen[bytes], timeout: float) -> int | None:
    """The exit code; None when it took too long, and it and all that it started are gone."""
    try:
        return process.wait(timeout)
    except subprocess.TimeoutExpired:
        pass
    os.killpg(process.pid, signal.SIGTERM)
    until = time.monotonic() + _GRACE
    while time.monotonic() < until and not _has_ended(process):
        time.sleep(0.02)
    # Before it is reaped: until then its group's number cannot be another's.
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    return None


def _has_ended(process: subprocess.Popen[bytes]) -> bool:
    return os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def _last_line(output: IO[bytes]) -> str:
    size = output.seek(0, os.SEEK_END)
    output.seek(max(0, size - _TAIL))
    lines = output.read().decode(errors="replace").split("\n")
    last = next((line for line in reversed(lines) if line.strip()), "").strip()
    return "".join(letter if letter.isprintable() else "?" for letter in last)[:_LONGEST_LINE]


def check_hooks(policies: Mapping[str, Policy]) -> None:
    """Raises ConfigurationError for a hook whose program is not on this machine."""
    for policy_name, policy in policies.items():
        for hook, program in _programs(policy):
            if shutil.which(program) is None:
                raise ConfigurationError(
                    f"policies.{policy_name}.hooks.{hook}: {program} is no program on this machine"
                )


def _programs(policy: Policy) -> Iterable[tuple[str, str]]:
    for hook in (BEFORE_SNAPSHOT, AFTER_SNAPSHOT, AFTER_RUN):
        if command := getattr(policy.hooks, hook):
            yield hook, command[0]
