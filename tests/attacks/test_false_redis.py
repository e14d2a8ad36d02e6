"""Who answers in Redis's place, or sits on the way to it, gets nothing: no password, no command."""

from __future__ import annotations

import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import redis
from kombu.exceptions import OperationalError

from scheduler import cli
from scheduler.checks.redis_server import check_redis
from tests.certificates import Identity, make_identity
from tests.conftest import free_port, listens, redis_server_binary
from tests.until import until
from workers.broker import celery_app, queued
from workers.errors import ConfigurationError
from workers.fleet import Ledger, LedgerUnreachable
from workers.messages import STEP_QUEUE, STEP_TASK, Step
from workers.redis_address import RedisAddress
from workers.settings import Settings, load_settings

PASSWORD = "s3cret-of-redis"
ROOT = Path(__file__).parents[2]


@dataclass
class Place:
    """A Redis with TLS and a password, and what proves that it is the right one."""

    folder: Path
    port: int
    authority: Identity
    ca_file: Path

    def settings(self, port: int, host: str = "localhost", ca_file: Path | None = None) -> Settings:
        password = self.folder / "redis.password"
        password.write_text(PASSWORD + "\n")
        return Settings.model_validate(
            {
                "repository": {"url": f"file://{self.folder}/store"},
                "redis": {
                    "url": f"rediss://{host}:{port}/0",
                    "ca_file": str(ca_file or self.ca_file),
                    "username": "default",
                    "password_file": str(password),
                },
            }
        )


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    authority = make_identity(common_name="the CA", authority=True)
    ca_file, _ = authority.write(tmp_path, "ca")
    certificate, key = make_identity(dns=("localhost",), issuer=authority).write(tmp_path, "redis")
    port = free_port()
    configuration = tmp_path / "redis.conf"
    configuration.write_text(
        f"port 0\ntls-port {port}\ntls-auth-clients no\ntls-cert-file {certificate}\ntls-key-file {key}\n"
        f'tls-ca-cert-file {ca_file}\nrequirepass {PASSWORD}\nsave ""\ndir {tmp_path}\n'
    )
    with subprocess.Popen([redis_server_binary(), configuration], stdout=subprocess.DEVNULL) as server:
        until(lambda: listens(port) or server.poll() is not None)
        if server.poll() is not None:
            pytest.skip("this redis-server was built without TLS")
        yield Place(tmp_path, port, authority, ca_file)
        server.terminate()


@dataclass
class Listener:
    """Speaks TLS with whoever comes, agrees to everything, and keeps all that it was sent."""

    port: int = 0
    connections: int = 0
    heard: bytes = b""
    plain: bytes = b""
    threads: list[threading.Thread] = field(default_factory=list)


@contextmanager
def false_redis(context: ssl.SSLContext) -> Iterator[Listener]:
    listener = Listener()

    def serve(connection: socket.socket) -> None:
        with connection, suppress(OSError):
            connection.settimeout(20)
            with context.wrap_socket(connection, server_side=True) as secured:
                while piece := secured.recv(4096):
                    listener.heard += piece
                    secured.sendall(b"+OK\r\n")

    def accept() -> None:
        with suppress(OSError):
            while True:
                connection, _ = server.accept()
                listener.connections += 1
                thread = threading.Thread(target=serve, args=(connection,))
                listener.threads.append(thread)
                thread.start()

    with socket.create_server(("127.0.0.1", 0)) as server:
        listener.port = server.getsockname()[1]
        thread = threading.Thread(target=accept)
        thread.start()
        try:
            yield listener
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join()
            for each in listener.threads:
                each.join()


def publish(settings: Settings) -> Any:
    app = celery_app(RedisAddress.of(settings))
    with closing(app):
        step = Step("run", "plan-run", "").as_message()
        app.send_task(STEP_TASK, args=[step], queue=STEP_QUEUE, ignore_result=True, retry=False)
        return queued(app, STEP_QUEUE)


def test_both_clients_reach_the_right_one(place: Place) -> None:
    settings = place.settings(place.port)
    with closing(Ledger.open(settings)) as ledger:
        ledger.found()
    assert publish(settings) == 1
    assert check_redis(settings)[0].state == "ok"


@pytest.mark.parametrize("wrong", ["certificate of another CA", "certificate of another host"])
def test_neither_client_tells_another_anything(place: Place, wrong: str, tmp_path: Path) -> None:
    if wrong == "certificate of another CA":
        false = make_identity(dns=("localhost",), issuer=make_identity(common_name="x", authority=True))
        reason = "unable to get local issuer certificate"
    else:
        false = make_identity(dns=("elsewhere.example",), issuer=place.authority)
        reason = "Hostname mismatch, certificate is not valid for 'localhost'"
    with false_redis(false.server_context(tmp_path)) as listener:
        settings = place.settings(listener.port)
        line = (
            f"localhost:{listener.port}{{}} is not trusted, nothing was sent to it: {reason};"
            " redis.ca_file must hold the CA of its certificate, and redis.url the name that is in it"
        )
        with pytest.raises(LedgerUnreachable) as by_ledger:
            Ledger.open(settings)
        assert str(by_ledger.value) == "Redis at " + line.format("")
        with pytest.raises(OperationalError) as by_celery:
            publish(settings)
        assert str(by_celery.value) == "Redis at rediss://" + line.format("/0")
        [check] = check_redis(settings)
        assert (check.state, check.said) == ("failed", "Redis at rediss://" + line.format("/0"))
    assert listener.connections >= 3
    assert listener.heard == b""


def test_the_password_is_nowhere_to_be_seen(place: Place, tmp_path: Path) -> None:
    """A scheduler that trusts its Redis, and one that meets another: arguments, logs, reprs."""
    (tmp_path / "store").mkdir()
    place.settings(place.port)
    config = tmp_path / "cbtfleet.toml"

    def configure(port: int) -> None:
        config.write_text(
            f'[redis]\nurl = "rediss://localhost:{port}/0"\nca_file = "{place.ca_file}"\n'
            f'username = "default"\npassword_file = "redis.password"\n'
            f'[repository]\nurl = "file://{tmp_path}/store"\n[metrics]\nscheduler_port = 0\n'
        )

    configure(place.port)
    assert cli.run(["--config", str(config), "init", "--unencrypted"]) == 0
    command = [sys.executable, "-m", "scheduler.cli", "--config", str(config), "scheduler"]
    log = tmp_path / "scheduler.log"
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, cwd=ROOT)
    until(lambda: "scheduler is ready" in log.read_text(), report=log.read_text)
    arguments = Path(f"/proc/{process.pid}/cmdline").read_bytes()
    process.terminate()
    assert process.wait(60) == 0
    with false_redis(make_identity(dns=("localhost",)).server_context(tmp_path)) as listener:
        configure(listener.port)
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=60, check=False)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert "is not trusted, nothing was sent to it: self-signed certificate" in done.stderr
    assert listener.heard == b""
    settings = load_settings(config, {})
    address = RedisAddress.of(settings)
    app = celery_app(address)
    shown = [repr(settings), repr(address), str(address), repr(app.conf), repr(app.connection())]
    for text in (arguments.decode(), log.read_text(), done.stderr, done.stdout, *shown):
        assert PASSWORD not in text


def test_a_wrong_password_is_one_line_without_it(place: Place) -> None:
    settings = place.settings(place.port)
    (place.folder / "redis.password").write_text("wr0ng")
    with pytest.raises(LedgerUnreachable) as refused:
        Ledger.open(settings)
    assert str(refused.value) == f"Redis at localhost:{place.port} refuses the user name or password"
    with pytest.raises((OperationalError, redis.AuthenticationError)) as by_celery:
        publish(settings)
    assert "wr0ng" not in str(by_celery.value)


def test_files_that_cannot_be_read_are_named(place: Place, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"^redis\.ca_file: cannot read .*/none: No such file"):
        Ledger.open(place.settings(1, ca_file=tmp_path / "none"))
    settings = place.settings(place.port, ca_file=place.folder / "redis.password")
    with pytest.raises(LedgerUnreachable, match=r"there is no certificate in redis\.ca_file$"):
        Ledger.open(settings)
    settings = place.settings(place.port)
    (place.folder / "redis.password").unlink()
    with pytest.raises(ConfigurationError, match=r"^redis\.password_file: cannot read"):
        Ledger.open(settings)
