"""The doctor: store, keys, Redis and the command itself. Pools are in test_doctor_pool.py."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
import redis

from infra.simulator import SimulatedPool, Timing, plain_pool
from scheduler.checks.check import Check, Subject
from scheduler.checks.clock import clock_check
from scheduler.checks.keys import check_file
from scheduler.checks.ledger_facts import LedgerFacts, read_ledger
from scheduler.checks.redis_server import (
    check_eviction,
    check_latency,
    check_memory,
    check_persistence,
    check_redis,
    check_version,
)
from scheduler.checks.slots import check_fleet
from scheduler.checks.store import check_store
from tests.command_line import CONFIGURATION, PASSPHRASE, CommandLine
from workers.fleet import Ledger, Node
from workers.repository import Store, create_repository, open_store
from workers.repository.directory_store import DirectoryStore
from workers.settings import RepositorySettings, Settings

CLOCK = Subject("clock")


@pytest.fixture(scope="module")
def pool() -> Iterator[SimulatedPool]:
    spec = plain_pool(vms=1, disks=1, disk_size=1 << 20, timing=Timing(login_failure_delay=0.1))
    with SimulatedPool.start(spec) as pool:
        yield pool


def named(checks: list[Check], name: str) -> Check:
    [check] = [check for check in checks if check.name == name]
    return check


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
        (check_latency(0.001), "ok"),
        (check_latency(0.2), "warning"),
        (check_memory(1 << 20, 0), "ok"),
        (check_memory(1 << 20, 2 << 20), "ok"),
        (check_memory(9 << 20, 10 << 20), "warning"),
        (clock_check(CLOCK, "clock", -1.9), "ok"),
        (clock_check(CLOCK, "clock", 2.1), "warning"),
        (clock_check(CLOCK, "clock", -400), "failed"),
    ],
)
def test_small_checks(check: Check, state: str) -> None:
    assert check.state == state
    assert (check.todo == "") == (state == "ok")


def test_key_files_are_for_their_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "key"
    assert [check.state for check in check_file("key.metadata", path, secret=True)] == ["failed"]
    assert [check.state for check in check_file("key.private", path, secret=True)] == ["ok"]
    path.write_text("")
    path.chmod(0o640)
    [check] = check_file("key.metadata", path, secret=True)
    assert (check.state, check.todo) == ("failed", f"chmod 600 {path}")
    assert check_file("key.public", path, secret=False)[0].state == "ok"
    path.chmod(0o600)
    assert check_file("key.metadata", path, secret=True)[0].state == "ok"


# Redis


def redis_checks(url: str) -> list[Check]:
    return check_redis(
        Settings.model_validate({"repository": {"url": "file:///nowhere"}, "redis": {"url": url}})
    )


@pytest.mark.parametrize(
    ("configured", "name", "state", "said"),
    [
        ({"appendonly": "yes"}, "redis.persistence", "ok", "append-only file"),
        ({}, "redis.persistence", "warning", "none"),
        (
            {"maxmemory": "100mb", "maxmemory-policy": "allkeys-lru"},
            "redis.eviction",
            "failed",
            "allkeys-lru",
        ),
        ({"maxmemory": "1mb"}, "redis.memory", "warning", "of maxmemory 1.0 MiB"),
    ],
)
def test_a_real_redis(
    redis_url: str,
    redis_client: redis.Redis,
    configured: dict[str, str],
    name: str,
    state: str,
    said: str,
) -> None:
    usual = {key: redis_client.config_get(key)[key] for key in configured}
    for key, value in configured.items():
        redis_client.config_set(key, value)
    try:
        check = named(redis_checks(redis_url), name)
    finally:
        for key, value in usual.items():
            redis_client.config_set(key, value)
    assert (check.state, said in check.said) == (state, True)


def test_another_programs_keys_are_seen(redis_url: str, redis_client: redis.Redis) -> None:
    Ledger.from_url(redis_url).found()
    assert named(redis_checks(redis_url), "redis.keys").state == "ok"
    redis_client.set("session:of-somebody", "1")
    check = named(redis_checks(redis_url), "redis.keys")
    assert (check.state, "'session:of-s'" in check.said) == ("warning", True)
    assert "redis.url" in check.todo


def test_looking_at_a_redis_uses_nothing_of_it(redis_url: str, redis_client: redis.Redis) -> None:
    settings = Settings.model_validate(
        {"repository": {"url": "file:///nowhere"}, "redis": {"url": redis_url}}
    )
    facts = read_ledger(settings)
    check_redis(settings)
    assert redis_client.dbsize() == 0
    assert "never at work" in named(check_fleet(facts), "fleet.barrier").said
    assert named(check_fleet(facts), "fleet.nodes").state == "warning"


@pytest.mark.parametrize(
    ("facts", "name", "state", "said"),
    [
        (LedgerFacts(barrier_left=40), "fleet.barrier", "ok", "nothing is granted for 40 s more"),
        (LedgerFacts(nodes=(Node("a", 4, 1, False),)), "fleet.nodes", "ok", "1 worker node with 4 processes"),
        (
            LedgerFacts(nodes=(Node("a", 4, 1, True),)),
            "fleet.nodes",
            "warning",
            "every worker node is stopping",
        ),
        (LedgerFacts(), "fleet.nodes", "warning", "no worker node reports"),
    ],
)
def test_the_fleet(facts: LedgerFacts, name: str, state: str, said: str) -> None:
    check = named(check_fleet(facts), name)
    assert (check.state, said in check.said) == (state, True)


# The store


class Overwriting(DirectoryStore):
    """As some S3 servers do."""

    def put_if_absent(self, key: str, data: bytes) -> None:  # type: ignore[override]
        self.delete(key)
        super().put_if_absent(key, data)


def test_a_store_that_overwrites(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = RepositorySettings(url=f"file://{tmp_path}")

    def overwriting(settings: RepositorySettings) -> Store:
        return Overwriting.open(settings)

    monkeypatch.setattr("scheduler.checks.store.open_store", overwriting)
    check = named(check_store(settings), "store.put-if-absent")
    assert (check.state, "overwrites an object" in check.said) == ("failed", True)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_store_that_is_nearly_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scheduler.checks.store.NEARLY_FULL", 1.1)
    check = named(check_store(RepositorySettings(url=f"file://{tmp_path}")), "store.space")
    assert (check.state, check.todo != "") == ("warning", True)


@pytest.mark.usefixtures("s3_bucket")
def test_a_bucket_with_and_without_object_lock(s3_endpoint: str, s3_bucket: str) -> None:
    def looked(bucket: str) -> list[Check]:
        return check_store(RepositorySettings(url=f"s3://{bucket}/prod", endpoint_url=s3_endpoint))

    client = boto3.session.Session().client("s3", endpoint_url=s3_endpoint)
    try:
        retention = {"Mode": "COMPLIANCE", "Days": 30}
        for name in ("locked", "retained"):
            client.create_bucket(Bucket=f"{s3_bucket}-{name}", ObjectLockEnabledForBucket=True)
        client.put_object_lock_configuration(
            Bucket=f"{s3_bucket}-retained",
            ObjectLockConfiguration={
                "ObjectLockEnabled": "Enabled",
                "Rule": {"DefaultRetention": retention},  # type: ignore[typeddict-item]
            },
        )
        assert named(looked(s3_bucket), "store.object-lock").said.startswith("off")
        assert client.list_objects_v2(Bucket=s3_bucket).get("Contents", []) == []

        locked = looked(f"{s3_bucket}-locked")
        assert named(locked, "store.object-lock").said.startswith("on, without a default retention")
        assert named(locked, "store.put-if-absent").said.startswith("honoured")

        retained = looked(f"{s3_bucket}-retained")
        assert named(retained, "store.object-lock").said == "on: every object is kept for 30 days, COMPLIANCE"
        assert named(retained, "store.put-if-absent").said.startswith("not tried")
        assert client.list_object_versions(Bucket=f"{s3_bucket}-retained").get("Versions", []) == []
    finally:
        client.close()


def test_a_bucket_that_is_not_there(s3_endpoint: str, s3_bucket: str) -> None:
    [check] = check_store(RepositorySettings(url="s3://no-such-bucket", endpoint_url=s3_endpoint))
    assert (check.name, check.state) == ("store", "failed")
    assert "no-such-bucket" in check.said


# The command


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
    ledger = Ledger.from_url(redis_url)
    ledger.node_alive("node", 4)
    ledger.close()
    redis_client.config_set("appendonly", "yes")
    try:
        found = cbtfleet.json("doctor")
    finally:
        redis_client.config_set("appendonly", "no")
    assert {check["name"] for check in found["checks"] if check["state"] != "ok"} == {"key.private"}
    assert found["status"] == "warning"
    assert {tuple(check) for check in found["checks"]} == {
        ("subject", "name", "state", "said", "todo", "about")
    }
    assert "put-if-absent" in str(found)

    shown = cbtfleet("doctor")
    assert shown.code == 0
    assert "\npool lab\n  ok       reachable " in shown.out
    assert "\npolicy nightly\n" in shown.out
    assert "-> keep it where you restore, not where workers run" in shown.out

    os.chmod(cbtfleet.folder / "keys" / "metadata.key", 0o644)
    shown = cbtfleet("doctor")
    assert shown.code == 1
    assert "PROBLEM  metadata" in shown.out
    assert f"-> chmod 600 {cbtfleet.folder}/keys/metadata.key" in shown.out
    assert PASSPHRASE not in shown.out
    assert list((cbtfleet.folder / "store").rglob("[!.]*")) == [cbtfleet.folder / "store" / "config"]


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


def test_what_hangs_is_given_up_and_all_the_rest_is_shown(
    tmp_path: Path, pool: SimulatedPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A Redis that takes connections and says nothing; and a part of the doctor itself that breaks."""
    from scheduler.checks import doctor

    (tmp_path / "store").mkdir()
    repository = RepositorySettings(url=f"file://{tmp_path}/store")
    store = open_store(repository)
    create_repository(store, repository, encrypted=False, passphrase=None)
    store.close()
    monkeypatch.setattr(doctor, "LOOK_SECONDS", 1.5)

    def breaks(*_: object) -> list[Check]:
        raise KeyError("secret")

    monkeypatch.setattr(doctor, "check_version", breaks)
    going_on = threading.Event()
    monkeypatch.setattr(doctor, "read_repository", lambda _: going_on.wait(30))
    with socket.create_server(("127.0.0.1", 0)) as silent:
        settings = Settings.model_validate(
            {
                "repository": {"url": repository.url},
                "redis": {"url": f"redis://127.0.0.1:{silent.getsockname()[1]}/0"},
                "pools": {
                    "lab": {
                        "url": pool.url,
                        "username": "root",
                        "password_file": pool.password_file,
                        "ca_file": pool.ca_file,
                    }
                },
                "policies": {"nightly": {"pool": "lab", "include": {"tags": ["backup"]}}},
            }
        )
        checks = doctor.examine(settings, tmp_path / "cbtfleet.toml")
    going_on.set()
    assert named(checks, "policy.vms").state == "ok"
    assert named(checks, "policy.tonight").said == "not known: no answer within 1.5 s"
    assert named(checks, "redis").said == "could not be looked at: no answer within 1.5 s"
    assert named(checks, "pool.version").said == "could not be looked at: unexpected KeyError"
    names = {check.name for check in checks}
    assert {"store.put-if-absent", "repository", "pool.reachable", "pool.handshake", "pool.storage"} <= names
