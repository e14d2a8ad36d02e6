"""Who can look at a service's processes finds no passphrase there, as the kernel shows them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from scheduler import cli
from tests.until import until

ROOT = Path(__file__).parents[2]
PASSPHRASE = "correct horse battery staple"
OF_THE_START = "OF_THE_START"

REDIS, SCHEDULER, STREAM = "redis-server", "scheduler.cli", "workers.node.main"


def family_of(process: int) -> Iterator[int]:
    """It and all that it started, and these started."""
    yield process
    for task in Path(f"/proc/{process}/task").iterdir():
        for child in (task / "children").read_text().split():
            yield from family_of(int(child))


@pytest.mark.parametrize(
    ("service", "ready", "runs"),
    [
        ("scheduler", ["scheduler is ready"], [SCHEDULER]),
        ("worker", ["is ready for 1 streams"], [STREAM]),
        ("up", ["scheduler is ready", "is ready for 1 streams"], [REDIS, SCHEDULER, STREAM]),
    ],
)
def test_a_service_and_what_it_starts_have_no_passphrase(
    service: str, ready: list[str], runs: list[str], tmp_path: Path, redis_url: str
) -> None:
    (tmp_path / "store").mkdir()
    config = tmp_path / "cbtfleet.toml"
    redis = "" if service == "up" else f'[redis]\nurl = "{redis_url}"\n'
    config.write_text(
        f'{redis}[repository]\nurl = "file://{tmp_path}/store"\n'
        "[metrics]\nscheduler_port = 0\nworker_port = 0\n"
    )
    assert cli.run(["--config", str(config), "init", "--unencrypted"]) == 0
    options = [] if service == "scheduler" else ["--concurrency", "1"]
    log = tmp_path / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "scheduler.cli", "--config", str(config), service, *options],
            stdout=output,
            stderr=output,
            cwd=ROOT,
            env={**os.environ, "CBTFLEET_PASSPHRASE": PASSPHRASE, OF_THE_START: "1"},
            start_new_session=True,
        )
    try:
        until(lambda: all(line in log.read_text() for line in ready), report=log.read_text)
        family = list(family_of(process.pid))
        commands = {each: Path(f"/proc/{each}/cmdline").read_text() for each in family}
        assert [name for name in runs if name not in " ".join(commands.values())] == []
        for each, command in commands.items():
            environment = Path(f"/proc/{each}/environ").read_bytes()
            if REDIS not in command:  # which writes its title over it
                assert OF_THE_START.encode() in environment, "this is where the kernel shows it"
            assert b"CBTFLEET_PASSPHRASE" not in environment
            assert PASSPHRASE.encode() not in environment
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
