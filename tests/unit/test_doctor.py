"""The doctor: what it says about a set-up that is right, and about each that is not."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from infra.simulator import PoolSpec, SimulatedPool, Timing, plain_pool
from scheduler.checks.check import Check
from scheduler.checks.clock import clock_check
from scheduler.checks.keys import check_file
from scheduler.checks.pool import check_pool
from scheduler.checks.redis_server import check_eviction, check_persistence, check_version
from tests.command_line import CONFIGURATION, PASSPHRASE, CommandLine
from workers.settings import PoolSettings


def pool_settings(pool: SimulatedPool, **changes: object) -> PoolSettings:
    settings = {
        "url": pool.url,
        "username": "root",
        "password_file": str(pool.password_file),
        "ca_file": str(pool.ca_file),
    }
    return PoolSettings.model_validate(settings | changes)


def states(checks: list[Check]) -> dict[str, str]:
    """The worst state by name."""
    order = ["ok", "warning", "failed"]
    found: dict[str, str] = {}
    for check in checks:
        found[check.name] = max(found.get(check.name, "ok"), check.state, key=order.index)
    return found


@pytest.fixture(scope="module")
def pool() -> Iterator[SimulatedPool]:
    with SimulatedPool.start(
        plain_pool(vms=1, disks=1, disk_size=1 << 20, timing=Timing(login_failure_delay=0.1))
    ) as pool:
        yield pool


@pytest.mark.parametrize(
    ("check", "state"),
    [
        (check_version("7.0.15"), "ok"),
        (check_version("6.2.0"), "ok"),
        (check_version("6.0.16"), "failed"),
        (check_version(""), "failed"),
        (check_eviction("noeviction", "0"), "ok"),
        (check_eviction("allkeys-lru", "1000000"), "failed"),
        (check_eviction("volatile-lru", "0"), "warning"),
        (check_eviction(None, None), "warning"),
        (check_persistence("yes", ""), "ok"),
        (check_persistence("no", "3600 1"), "warning"),
        (check_persistence(None, None), "warning"),
        (clock_check("clock", -1.9), "ok"),
        (clock_check("clock", 2.1), "warning"),
        (clock_check("clock", -400), "failed"),
    ],
)
def test_small_checks(check: Check, state: str) -> None:
    assert check.state == state
    assert (check.todo == "") == (state == "ok")


def test_key_files_are_for_their_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "key"
    assert [check.state for check in check_file("metadata key", path, secret=True)] == ["failed"]
    assert [check.state for check in check_file("private key", path, secret=True)] == ["ok"]
    path.write_text("")
    path.chmod(0o640)
    [check] = check_file("metadata key", path, secret=True)
    assert (check.state, check.todo) == ("failed", f"chmod 600 {path}")
    assert check_file("public key", path, secret=False)[0].state == "ok"
    path.chmod(0o600)
    assert check_file("metadata key", path, secret=True)[0].state == "ok"


def test_a_good_pool(pool: SimulatedPool) -> None:
    checks = check_pool("lab", pool_settings(pool))
    assert states(checks) == dict.fromkeys(
        ["pool lab", "pool lab NBD", "pool lab storage", "pool lab clock"], "ok"
    )
    assert pool.leftovers()["sessions"] == 0


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"password_file": None, "password": "s3cret-wrong"}, "password"),
        ({"ca_file": None, "certificate_sha256": "ab" * 32}, "certificate"),
        ({"url": "https://127.0.0.1:1"}, "127.0.0.1"),
    ],
)
def test_a_pool_that_cannot_be_entered(pool: SimulatedPool, changes: dict[str, object], said: str) -> None:
    [check] = check_pool("lab", pool_settings(pool, **changes))
    assert check.state == "failed"
    assert check.todo
    assert said in check.said
    assert "s3cret" not in f"{check}"


def test_no_verification_is_said(pool: SimulatedPool) -> None:
    assert (
        states(check_pool("lab", pool_settings(pool, ca_file=None, verify_tls=False)))["pool lab TLS"]
        == "warning"
    )


@pytest.mark.parametrize(
    ("spec", "name", "state", "said"),
    [
        (PoolSpec(purpose=None), "pool lab NBD", "failed", "no network"),
        (PoolSpec(purpose="insecure_nbd"), "pool lab NBD", "warning", "unencrypted"),
        (PoolSpec(sr_has_cbt=False), "pool lab storage", "warning", "cannot track changed blocks"),
        (PoolSpec(licensed_for_cbt=False), "pool lab licence", "failed", "changed block tracking"),
    ],
)
def test_a_pool_that_is_not_set_up(spec: PoolSpec, name: str, state: str, said: str) -> None:
    with SimulatedPool.start(spec) as pool:
        checks = check_pool("lab", pool_settings(pool))
    assert states(checks)[name] == state
    wrong = [check for check in checks if check.name == name and check.state != "ok"]
    assert said in wrong[0].said
    assert wrong[0].todo


def test_a_host_that_is_down_is_a_warning(pool: SimulatedPool) -> None:
    down = pool.describe()["hosts"][1]
    pool.set_host(down["uuid"], "down")
    try:
        checks = check_pool("lab", pool_settings(pool))
    finally:
        pool.set_host(down["uuid"], "up")
    assert states(checks)["pool lab NBD"] == "warning"
    assert any(down["name"] in check.said for check in checks)


def test_the_whole_command(
    cbtfleet: CommandLine,
    monkeypatch: pytest.MonkeyPatch,
    pool: SimulatedPool,
    redis_url: str,
    redis_client: redis.Redis,
) -> None:
    monkeypatch.setenv("CBTFLEET_PASSPHRASE", PASSPHRASE)
    cbtfleet.configure(
        CONFIGURATION
        + f"""
[redis]
url = "{redis_url}"
[pools.lab]
url = "{pool.url}"
username = "root"
password_file = "{pool.password_file}"
ca_file = "{pool.ca_file}"
[policies.nightly]
pool = "lab"
include = {{ tags = ["backup"] }}
"""
    )
    found = cbtfleet.json("doctor", expect=1)
    assert found["status"] == "failed"
    assert [check["todo"] for check in found["checks"] if check["name"] == "repository"] == ["cbtfleet init"]

    cbtfleet.json("init")
    redis_client.config_set("appendonly", "yes")
    try:
        found = cbtfleet.json("doctor")
    finally:
        redis_client.config_set("appendonly", "no")
    assert {check["name"] for check in found["checks"] if check["state"] != "ok"} == {"private key"}
    assert "put-if-absent" in str(found)

    shown = cbtfleet("doctor")
    assert shown.code == 0
    assert "-> keep it where you restore, not where workers run" in shown.out

    os.chmod(cbtfleet.folder / "keys" / "metadata.key", 0o644)
    shown = cbtfleet("doctor")
    assert shown.code == 1
    assert f"-> chmod 600 {cbtfleet.folder}/keys/metadata.key" in shown.out
    assert PASSPHRASE not in shown.out
    assert list((cbtfleet.folder / "store").rglob("*")) == [cbtfleet.folder / "store" / "config"]


def test_without_redis_or_pool(cbtfleet: CommandLine) -> None:
    cbtfleet.configure('[repository]\nurl = "file://{folder}/store"\n')
    cbtfleet.json("init", "--unencrypted")
    found = cbtfleet.json("doctor")
    assert {check["name"] for check in found["checks"] if check["state"] == "warning"} == {
        "configuration",
        "encryption",
        "redis",
    }
    cbtfleet.configure(cbtfleet.config.read_text() + '[redis]\nurl = "redis://:s3cret@127.0.0.1:1/0"\n')
    done = cbtfleet("doctor")
    assert done.code == 1
    assert "s3cret" not in done.out + done.err
