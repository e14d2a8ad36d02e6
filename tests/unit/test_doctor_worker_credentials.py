"""What the doctor says of stolen credentials, for each kind of bucket, and of workers that share them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest

from scheduler.checks.check import Check
from scheduler.checks.doctor import examine
from scheduler.checks.store import STORE, check_store
from scheduler.checks.worker_credentials import Keeping, check_versioning, check_worker_credentials
from tests.until import until
from workers.fleet import Ledger, Node
from workers.node.main import Heartbeat, check_start
from workers.repository import AccessDenied, ObjectInfo, ObjectLock, Store, create_repository, open_store
from workers.repository.directory_store import DirectoryStore
from workers.settings import RepositorySettings, Settings

NO_LOCK = ObjectLock(known=True)
RETAINED = ObjectLock(known=True, enabled=True, retention="30 days, COMPLIANCE")
OURS, OTHERS = Node("a", 1, 0, False, "ours"), Node("b", 1, 0, False, "others")


@pytest.mark.parametrize(
    ("keeping", "nodes", "state", "said"),
    [
        (Keeping(RETAINED, "on", "ours", True), [OURS], "ok", "destroys none for 30 days, COMPLIANCE"),
        (Keeping(NO_LOCK, "on", "ours", True), [OURS], "ok", "older versions stay"),
        (Keeping(NO_LOCK, "off", "ours", True), [OURS, OTHERS], "warning", "1 worker node with the same"),
        (Keeping(NO_LOCK, "suspended", "ours", True), [OURS], "warning", "can delete every backup"),
        (Keeping(NO_LOCK, "not known", "ours", True), [OURS], "warning", "can delete every backup"),
        (Keeping(NO_LOCK, "off", "ours", True), [OTHERS], "ok", "the workers' are their own"),
        (Keeping(NO_LOCK, "off", "ours", True), [], "ok", "no worker node says which it has"),
        (Keeping(NO_LOCK, "off", "", True), [OTHERS], "ok", "no worker node says which it has"),
        (Keeping(NO_LOCK, "off", "ours", False), [OURS], "ok", "can put packs, and replace those whose"),
    ],
)
def test_what_a_thief_could_do(keeping: Keeping, nodes: list[Node], state: str, said: str) -> None:
    check = check_worker_credentials(STORE, keeping, nodes)
    assert (check.state, said in check.said) == (state, True), check
    assert ("infra/store-policies" in check.todo) == (state == "warning")


@pytest.mark.parametrize(
    ("keeping", "said"),
    [
        (Keeping(NO_LOCK, "on", "", True), "on: what is replaced or deleted stays"),
        (Keeping(NO_LOCK, "suspended", "", True), "suspended: what is replaced or deleted is gone"),
        (Keeping(NO_LOCK, "not known", "", True), "not known"),
    ],
)
def test_versions_are_said(keeping: Keeping, said: str) -> None:
    assert check_versioning(STORE, keeping).said.startswith(said)


@pytest.fixture
def settings(s3_endpoint: str, s3_bucket: str, redis_url: str) -> Settings:
    repository = {"url": f"s3://{s3_bucket}/prod", "endpoint_url": s3_endpoint}
    made = Settings.model_validate({"repository": repository, "redis": {"url": redis_url}})
    store = open_store(made.repository)
    create_repository(store, made.repository, encrypted=False, passphrase=None)
    store.close()
    return made


@pytest.fixture
def ledger(redis_url: str) -> Iterator[Ledger]:
    ledger = Ledger.from_url(redis_url)
    yield ledger
    ledger.close()


def looked(settings: Settings, name: str) -> Check:
    [check] = [check for check in examine(settings, Path("cbtfleet.toml")) if check.name == name]
    return check


def test_a_node_tells_whose_credentials_it_has_and_the_doctor_compares(
    settings: Settings, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "store.worker-credentials"
    heartbeat = Heartbeat(ledger, "node", 4, credentials=check_start(settings))
    heartbeat.start()
    until(ledger.nodes)
    assert looked(settings, name).state == "warning"
    assert looked(settings, "store.versioning").said.startswith("off")

    client = boto3.session.Session().client("s3", endpoint_url=settings.repository.endpoint_url)
    bucket = settings.repository.url.split("/")[2]
    client.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    assert looked(settings, "store.versioning").said.startswith("on")
    assert looked(settings, name).state == "ok"
    client.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Suspended"})
    client.close()
    assert looked(settings, name).state == "warning"
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "the-schedulers-own")
    assert "are their own" in looked(settings, name).said

    assert all("test" not in node.credentials for node in ledger.nodes())
    heartbeat.stop()
    ledger.node_alive("node", 4)
    assert [node.credentials for node in ledger.nodes()] == [""]


class WorkersOwn(DirectoryStore):
    """As a bucket looks to who may not list, nor put outside of packs/."""

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        raise AccessDenied("denied")

    def put_if_absent(self, key: str, data: bytes) -> None:  # type: ignore[override]
        raise AccessDenied("denied")


def test_nothing_is_wrong_with_credentials_that_may_only_what_a_worker_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def workers_own(settings: RepositorySettings) -> Store:
        return WorkersOwn.open(settings)

    settings = RepositorySettings(url=f"file://{tmp_path}")
    monkeypatch.setattr("scheduler.checks.store.open_store", workers_own)
    states = {check.name: check.state for check in check_store(settings)}
    assert (states["repository"], states["store.put-if-absent"]) == ("failed", "ok")
    (tmp_path / "config").write_bytes(b"")
    assert {check.state for check in check_store(settings)} == {"ok"}
