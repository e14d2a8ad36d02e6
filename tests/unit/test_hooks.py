"""Hooks as real processes: what they are given, and what is made of how they end."""

from __future__ import annotations

import json
import logging
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from scheduler.hooks import PASSED_ON, HookFailed, check_hooks, run_hook
from scheduler.policies.policy import Policy
from tests.until import until
from workers.errors import ConfigurationError


def shell(script: str) -> list[str]:
    return ["/bin/sh", "-c", script]


def run(command: list[str], timeout: float = 20, facts: dict[str, Any] | None = None) -> None:
    run_hook("before_snapshot", command, facts or {"vm": "wéb"}, timeout, 'VM "web"')


def test_a_hook_reads_one_json_document_and_sees_no_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("CBTFLEET_PASSPHRASE", "CBTFLEET_POOLS__LAB__PASSWORD", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "secret")
    script = "import json, os, sys; print(json.dumps([json.load(sys.stdin), dict(os.environ), os.getcwd()]))"
    kept = tmp_path / "kept.json"
    run(["/bin/sh", "-c", f"{sys.executable} -I -c '{script}' > {kept}"], facts={"vm": "wéb", "disks": [1]})
    document, environment, folder = json.loads(kept.read_text())
    assert document == {"hook": "before_snapshot", "vm": "wéb", "disks": [1]}
    of_the_shell = {"PWD", "OLDPWD", "SHLVL", "_", "LC_CTYPE"}
    assert set(environment) - of_the_shell <= {*PASSED_ON, "CBTFLEET_HOOK"}
    assert (environment["CBTFLEET_HOOK"], environment["PATH"]) == ("before_snapshot", os.environ["PATH"])
    assert folder == "/"


def test_the_last_line_is_logged_and_what_cannot_be_printed_is_not(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    run(shell(r"echo first; printf 'fro\033zen\n\n'; echo $(cat) >/dev/null"))
    assert caplog.messages == ['VM "web": hook before_snapshot said: fro?zen']


def test_output_without_end_is_no_trouble(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    run(shell("head -c 5000000 /dev/zero | tr '\\0' x; echo; seq 200000"))
    assert caplog.messages == ['VM "web": hook before_snapshot said: 200000']


@pytest.mark.parametrize(
    ("command", "line"),
    [
        (shell("echo no lock >&2; exit 3"), "hook before_snapshot (/bin/sh) ended with code 3: no lock"),
        (shell("kill -9 $$"), "hook before_snapshot (/bin/sh) was ended by signal 9"),
        (["/nowhere/freeze"], "hook before_snapshot: /nowhere/freeze cannot be started: No such file or"),
        (["/etc/passwd"], "hook before_snapshot: /etc/passwd cannot be started: Permission denied"),
    ],
)
def test_a_hook_that_fails(command: list[str], line: str) -> None:
    with pytest.raises(HookFailed) as error:
        run(command)
    assert str(error.value).startswith(line)


@pytest.mark.parametrize("stubborn", [False, True])
def test_a_hook_that_takes_too_long_is_ended_with_all_it_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stubborn: bool
) -> None:
    monkeypatch.setattr("scheduler.hooks._GRACE", 0.2)
    pids = tmp_path / "pids"
    trap = "trap '' TERM; " if stubborn else ""
    with pytest.raises(HookFailed, match=r"was ended: it took longer than 0.5 s"):
        run(shell(f"{trap}sleep 300 & echo $$ $! > {pids}; wait; sleep 300"), timeout=0.5)
    until(lambda: not any(is_running(pid) for pid in pids.read_text().split()))


def is_running(pid: str) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state.rpartition(")")[2].split()[0] != "Z"


def test_a_process_that_a_hook_leaves_behind_does_not_hold_it_up(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    run(shell(f"sleep 300 & echo $! > {pid}"), timeout=20)
    os.kill(int(pid.read_text()), 9)


def test_a_program_that_is_not_there_is_said_at_the_start() -> None:
    policy = Policy.model_validate(
        {"pool": "lab", "include": {"names": ["*"]}, "hooks": {"after_run": ["no-such-program"]}}
    )
    with pytest.raises(ConfigurationError, match=r"policies\.nightly\.hooks\.after_run: no-such-program"):
        check_hooks({"nightly": policy})
    fine = policy.model_copy(update={"hooks": policy.hooks.model_copy(update={"after_run": ("sh",)})})
    check_hooks({"nightly": fine})
