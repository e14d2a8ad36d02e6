"""Our own Redis: reachable by us alone, never evicting, kept over a restart, and gone when we are."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from scheduler.single_machine.embedded_redis import (
    EmbeddedRedis,
    EmbeddedRedisFailed,
    answers,
    find_redis_server,
)
from tests.until import until
from workers.errors import ConfigurationError


@pytest.fixture
def folder() -> Iterator[Path]:
    """Short, as a socket's path must be: pytest's own folders are nearly too long."""
    with tempfile.TemporaryDirectory(prefix="cbtfleet-") as name:
        yield Path(name)


def client_of(server: EmbeddedRedis) -> redis.Redis:
    return redis.Redis.from_url(server.url, decode_responses=True)


def test_it_never_evicts_and_listens_on_no_port(folder: Path) -> None:
    with EmbeddedRedis.start(folder) as server, client_of(server) as client:
        assert client.ping()
        assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
        assert client.config_get("appendonly") == {"appendonly": "yes"}
        assert client.config_get("port") == {"port": "0"}
        assert stat.S_IMODE((folder / "redis.sock").stat().st_mode) == 0o600


def test_what_it_was_told_survives_a_stop_and_a_crash(folder: Path) -> None:
    with EmbeddedRedis.start(folder) as server, client_of(server) as client:
        client.set("kept", "1")
        pid = server.pid
    until(lambda: not Path(f"/proc/{pid}").exists())
    assert not answers(folder / "redis.sock")
    with EmbeddedRedis.start(folder) as server, client_of(server) as client:
        assert client.get("kept") == "1"
        client.set("kept", "2")
        os.kill(server.pid, signal.SIGKILL)
        while server.returncode is None:
            time.sleep(0.01)
        server.restart()
        assert client.get("kept") == "2"


def test_one_folder_serves_one(folder: Path) -> None:
    with EmbeddedRedis.start(folder) as server:
        with pytest.raises(EmbeddedRedisFailed, match='another "cbtfleet up" uses'):
            EmbeddedRedis.start(folder)
        assert answers(folder / "redis.sock")
        assert server.returncode is None


def test_a_stranger_on_our_socket_is_said(folder: Path) -> None:
    (folder / "elsewhere").mkdir()
    arguments = [
        "--port",
        "0",
        "--unixsocket",
        str(folder / "redis.sock"),
        "--dir",
        str(folder / "elsewhere"),
    ]
    with subprocess.Popen(
        [str(find_redis_server()), *arguments, "--save", ""], stdout=subprocess.DEVNULL
    ) as stranger:
        while not answers(folder / "redis.sock"):
            time.sleep(0.01)
        with pytest.raises(EmbeddedRedisFailed, match="not ours"):
            EmbeddedRedis.start(folder, patience=0.2)
        stranger.terminate()


@pytest.mark.parametrize(
    ("program", "said"),
    [("echo no space left; exit 3", "ended with 3"), ("exec sleep 60", "did not answer within")],
)
def test_a_server_that_does_not_come_up(folder: Path, program: str, said: str) -> None:
    fake = folder / "fake-redis"
    fake.write_text(f"#!/bin/sh\n{program}\n")
    fake.chmod(0o755)
    with pytest.raises(EmbeddedRedisFailed, match=said):
        EmbeddedRedis.start(folder / "state", fake, patience=0.5)
    with EmbeddedRedis.start(folder / "state"):
        pass  # the failed start holds nothing any more


def test_a_folder_that_cannot_serve(folder: Path) -> None:
    with pytest.raises(ConfigurationError, match="too long for a socket"):
        EmbeddedRedis.start(folder / ("long" * 30))
    (folder / "file").write_text("")
    with pytest.raises(ConfigurationError, match="cannot use"):
        EmbeddedRedis.start(folder / "file" / "state")


def test_it_ends_when_its_parent_is_killed(folder: Path) -> None:
    program = f"""
import time
from pathlib import Path
from scheduler.single_machine.embedded_redis import EmbeddedRedis
print(EmbeddedRedis.start(Path({str(folder)!r})).pid, flush=True)
time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        parent.kill()
    with EmbeddedRedis.start(folder) as server:  # waits for the orphan to end
        assert server.pid != pid
        until(lambda: not Path(f"/proc/{pid}").exists())


def test_the_binary_is_found_on_the_path_without_the_wheel(
    monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    program = folder / "redis-server"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))
    assert find_redis_server() == program
    monkeypatch.setenv("PATH", str(folder / "nothing"))
    with pytest.raises(ConfigurationError, match=r"cbtfleet\[embedded\]"):
        find_redis_server()
