"""The command line's manners: options before or after, one line for every mistake, the right exit code."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from scheduler.commands import version as version_command
from tests.command_line import CONFIGURATION, CommandLine

POOL = """
[pools.lab]
url = "https://127.0.0.1:1"
username = "backup"
password = "s3cret-pool"
"""


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["bogus"], "No such command 'bogus'"),
        (["restore"], "Missing argument 'POINT'"),
        (["restore", "abc"], "Missing option '--to'"),
        (["worker", "--concurrency", "0"], "Invalid value for '--concurrency'"),
        (["points", "--nonsense"], "No such option: --nonsense"),
        (["verify", "--sample", "many"], "Invalid value for '--sample'"),
        (["backup"], "nothing to back up"),
        (["backup", "--pool", "lab"], "--pool needs at least one --vm"),
        (["backup", "--vm", "web"], "say which pool with --pool; the configuration has: none"),
        (["backup", "--pool", "lab", "--vm", "web"], 'no pool "lab" in the configuration'),
        (["backup", "--policy", "nightly"], 'no policy "nightly" in the configuration'),
        (["backup", "--policy", "nightly", "--vm", "web"], "either --policy or --vm"),
        (["points"], "cbtfleet init"),
    ],
)
def test_wrong_usage_and_configuration(cbtfleet: CommandLine, arguments: list[str], said: str) -> None:
    done = cbtfleet(*arguments)
    assert (done.code, done.out) == (2, "")
    assert said in done.said
    with_json = cbtfleet(*arguments, "--json")
    assert with_json.code == 2
    assert with_json.json == {"error": done.said}
    assert with_json.said == done.said


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[repository\n", "is not valid TOML"),
        ('[repository]\nurl = "s3://b"\nurll = 1\n', "unknown key repository.urll"),
        ("[repository]\n", "repository.url is missing"),
        ('[repository]\nurl = "ftp://x"\n', "repository: url must look like"),
    ],
)
@pytest.mark.parametrize("command", ["points", "doctor", "worker", "scheduler", "up", "init", "status"])
def test_a_broken_configuration_stops_every_command(
    cbtfleet: CommandLine, command: str, text: str, said: str
) -> None:
    cbtfleet.configure(text)
    done = cbtfleet(command)
    assert done.code == 2
    assert said in done.said
    assert str(cbtfleet.config) in done.said


def test_a_missing_configuration(cbtfleet: CommandLine, tmp_path: Path) -> None:
    assert "no configuration file" in cbtfleet.bare("--config", str(tmp_path / "nowhere.toml"), "points").said
    cbtfleet.config.unlink()
    done = cbtfleet.bare("points")
    assert done.code == 2
    assert "write cbtfleet.toml" in done.said


def test_options_before_and_after_the_command(
    cbtfleet: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cbtfleet.configure('[repository]\nurl = "file://{folder}/store"\n')
    assert cbtfleet("init", "--unencrypted").code == 0
    config = str(cbtfleet.config)
    monkeypatch.chdir("/")
    for arguments in (
        ["--config", config, "--json", "points"],
        ["--config", config, "points", "--json"],
        ["--json", "points", "--config", config],
        ["points", "--json", "--config", config],
    ):
        assert cbtfleet.bare(*arguments).json == {"points": []}
    monkeypatch.setenv("CBTFLEET_CONFIG", config)
    assert cbtfleet.bare("points", "--json").json == {"points": []}
    assert cbtfleet.bare("--config", "wrong.toml", "points", "--config", config).code == 0


def test_version_and_help(cbtfleet: CommandLine) -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+", cbtfleet.json("version")["version"])
    shown = cbtfleet.bare("--help")
    assert shown.code == 0
    assert "recover-key" in shown.out
    assert cbtfleet.bare().code == 2


def test_what_nobody_expected_is_one_line(cbtfleet: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(name: str) -> str:
        secret = "s3cret-local"  # noqa: F841 must not be printed with the traceback
        raise KeyError("two\nlines")

    monkeypatch.setattr(version_command, "installed_version", broken)
    done = cbtfleet("version")
    assert done.code == 1
    assert "unexpected KeyError" in done.said
    assert "CBTFLEET_DEBUG=1" in done.said
    assert cbtfleet.json("version", expect=1).keys() == {"error"}
    monkeypatch.setenv("CBTFLEET_DEBUG", "1")
    done = cbtfleet("version")
    assert "Traceback" in done.err
    assert "s3cret-local" not in done.err


def test_a_redis_that_does_not_answer(cbtfleet: CommandLine) -> None:
    cbtfleet.configure(CONFIGURATION + POOL)
    done = cbtfleet("backup", "--vm", "web")
    assert done.code == 1
    assert 'no "cbtfleet up" with a Redis of its own is running' in done.said
    cbtfleet.configure(CONFIGURATION + POOL + '[redis]\nurl = "redis://:s3cret-redis@127.0.0.1:1/0"\n')
    for command in (["backup", "--vm", "web"], ["status"], ["cancel", "x"]):
        done = cbtfleet(*command)
        assert done.code == 1
        assert "127.0.0.1" in done.said
        assert "s3cret" not in done.err


def test_runs_and_their_names(cbtfleet: CommandLine, redis_url: str) -> None:
    cbtfleet.configure(
        '[repository]\nurl = "file://{folder}/store"\n' + POOL + f'[redis]\nurl = "{redis_url}"\n'
    )
    cbtfleet("init", "--unencrypted")
    assert "no run is known" in cbtfleet("status").said
    assert cbtfleet.json("runs") == {"runs": []}
    first = cbtfleet.json("backup", "--vm", "web")
    assert first == {"run": first["run"], "status": "submitted"}
    second = cbtfleet.json("backup", "--vm", "web", "--vm", "db")["run"]
    assert cbtfleet.json("status")["run"] == max(first["run"], second)
    assert cbtfleet.json("status", first["run"][-6:])["state"] == "planning"
    assert "may be any of" in cbtfleet("status", first["run"][:4]).said
    assert 'no run "xyz"' in cbtfleet("status", "xyz").said
    assert cbtfleet.json("cancel", second) == {"run": second, "status": "cancelling"}
    listed = {run["run"]: run["status"] for run in cbtfleet.json("runs")["runs"]}
    assert listed == {first["run"]: "planning", second: "cancelling"}


def test_ctrl_c_ends_the_waiting_and_not_the_run(cbtfleet: CommandLine, redis_url: str) -> None:
    cbtfleet.configure(CONFIGURATION + POOL + f'[redis]\nurl = "{redis_url}"\n')
    command = [sys.executable, "-m", "scheduler.cli", "--config", str(cbtfleet.config)]
    with subprocess.Popen(
        [*command, "backup", "--vm", "web", "--wait", "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    ) as process:
        assert process.stderr is not None
        assert "submitted" in process.stderr.readline()
        assert "planning" in process.stderr.readline()
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=20)
    assert process.returncode == 3
    assert "the run goes on" in err
    assert "the run goes on" in out
    assert cbtfleet.json("status")["state"] == "planning"
