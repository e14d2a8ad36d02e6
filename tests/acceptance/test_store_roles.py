"""Each role with its own credentials at a real Ceph radosgw: what it needs it may, and nothing else.

Run by `make test-ceph`, which starts a Ceph; skipped everywhere else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import pytest
from botocore.exceptions import ClientError

from scheduler.checks.store import check_store
from tests.acceptance.conftest import FleetMaker
from tests.store_roles import ROLES, Role, bucket_policy, ceph_is_ours, client, refusal
from workers.settings import RepositorySettings

pytestmark = pytest.mark.skipif(not ceph_is_ours(), reason="needs a Ceph of its own: make test-ceph")

ONE_DISK = ("--hosts", "1", "--vms", "1", "--disks", "1", "--disk-size", "40MiB")


@pytest.fixture(scope="module")
def roles() -> Iterator[Mapping[str, Role]]:
    made = {name: Role.create(name) for name in ROLES}
    yield made
    for role in made.values():
        role.remove()


@pytest.fixture
def bucket(foreign_s3_endpoint: str, foreign_s3_bucket: str) -> str:
    """With the roles' documents, for the prefix `prod`."""
    owner = client(foreign_s3_endpoint)
    owner.put_bucket_policy(Bucket=foreign_s3_bucket, Policy=bucket_policy(foreign_s3_bucket, "prod"))
    owner.close()
    return foreign_s3_bucket


@pytest.fixture
def clients(foreign_s3_endpoint: str, roles: Mapping[str, Role]) -> Iterator[dict[str, Any]]:
    """The bucket's owner, and each role."""
    with ExitStack() as stack:
        made: dict[str, Any] = {"owner": client(foreign_s3_endpoint)}
        made |= {name: role.client(foreign_s3_endpoint) for name, role in roles.items()}
        for each in made.values():
            stack.callback(each.close)
        yield made


def keys_below(owner: Any, bucket: str, prefix: str) -> list[str]:
    found = owner.list_objects_v2(Bucket=bucket, Prefix=f"prod/{prefix}").get("Contents", [])
    return [item["Key"] for item in found]


def assert_denied(call: Callable[..., object], **what: Any) -> None:
    with pytest.raises(ClientError) as caught:
        call(**what)
    assert refusal(caught.value) == 403


def test_every_process_with_its_own_credentials_backs_up_and_restores(
    make_fleet: FleetMaker, roles: Mapping[str, Role], bucket: str, clients: Mapping[str, Any]
) -> None:
    fleet = make_fleet("s3", simulator=ONE_DISK)  # `init` by the owner
    [disk] = fleet.simulator.disks
    by_role = {
        name: replace(fleet, environment={**fleet.environment, **role.environment})
        for name, role in roles.items()
    }
    by_role["scheduler"].start("scheduler", "scheduler")
    by_role["worker"].start("worker", "worker", "--concurrency", "1")
    contents = {}
    for night in range(3):
        if night:
            fleet.simulator.write(disk, night, 20)
        if night == 2:  # its base is of no use any more: read in full, and compared with the known hashes
            fleet.simulator.post("/disable-cbt", {"vdi": disk})
        digest = fleet.simulator.content_sha256(disk)
        result = by_role["scheduler"].backup()
        assert result["status"] == "succeeded", fleet.report(result)
        [row] = result["disks"]
        contents[row["point"]] = digest
    assert (row["mode"], row["changed_bytes"]) == ("full", 40 << 20)
    assert row["stored_bytes"] < 4 << 20, "the known hashes could not be read"
    for point, digest in contents.items():
        assert by_role["restore"].restored_sha256(point, disk) == digest
    for role, said in (("scheduler", "the workers' are their own"), ("worker", "may not list")):
        checks = by_role[role].json("doctor")["checks"]
        assert [check for check in checks if check["state"] == "failed"] == []
        [check] = [check for check in checks if check["name"] == "store.worker-credentials"]
        assert said in check["said"]
    assert len(by_role["scheduler"].json("forget", next(iter(contents)))["forgotten"]) == 1
    denied_to_the_worker(clients, bucket)


def denied_to_the_worker(clients: Mapping[str, Any], bucket: str) -> None:
    worker, owner = clients["worker"], clients["owner"]
    [config], packs = keys_below(owner, bucket, "config"), keys_below(owner, bucket, "packs/")
    for prefix in ("", "prod/", "prod/packs/", "prod/known/"):
        assert_denied(worker.list_objects_v2, Bucket=bucket, Prefix=prefix)
        assert_denied(worker.list_object_versions, Bucket=bucket, Prefix=prefix)
    everything = keys_below(owner, bucket, "")
    assert {key.split("/")[1] for key in everything} >= {"config", "packs", "points", "segments", "runs"}
    for key in everything:
        if key != config:
            assert_denied(worker.get_object, Bucket=bucket, Key=key)
        assert_denied(worker.delete_object, Bucket=bucket, Key=key)
        if key not in packs:
            assert_denied(worker.put_object, Bucket=bucket, Key=key, Body=b"mine")
            assert_denied(worker.put_object, Bucket=bucket, Key=f"{key}-more", Body=b"mine", IfNoneMatch="*")
    assert keys_below(owner, bucket, "") == everything


def test_ceph_keeps_a_worker_from_replacing_a_pack_only_when_it_asks_for_that(
    bucket: str, clients: Mapping[str, Any]
) -> None:
    """Ceph's policies cannot demand If-None-Match, so who steals a worker's credentials leaves it out."""
    worker, restore = clients["worker"], clients["restore"]
    pack = {"Bucket": bucket, "Key": "prod/packs/disk/run/0"}
    worker.put_object(**pack, Body=b"good", IfNoneMatch="*")
    with pytest.raises(ClientError) as caught:
        worker.put_object(**pack, Body=b"evil", IfNoneMatch="*")
    assert refusal(caught.value) == 412
    assert restore.get_object(**pack)["Body"].read() == b"good"
    worker.put_object(**pack, Body=b"evil")
    assert restore.get_object(**pack)["Body"].read() == b"evil"


def test_a_bucket_with_versions_keeps_what_was_replaced_but_this_ceph_then_ignores_if_none_match(
    foreign_s3_endpoint: str, bucket: str, clients: Mapping[str, Any]
) -> None:
    owner, worker, restore = clients["owner"], clients["worker"], clients["restore"]
    owner.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    pack = {"Bucket": bucket, "Key": "prod/packs/disk/run/0"}
    for body in (b"good", b"evil"):
        worker.put_object(**pack, Body=body, IfNoneMatch="*")
    versions = restore.list_object_versions(Bucket=bucket, Prefix="prod/packs/")["Versions"]
    kept = {each["VersionId"]: restore.get_object(**pack, VersionId=each["VersionId"]) for each in versions}
    assert sorted(each["Body"].read() for each in kept.values()) == [b"evil", b"good"]
    for version in kept:
        assert_denied(worker.get_object, **pack, VersionId=version)
        for role in ("worker", "scheduler", "restore"):
            assert_denied(clients[role].delete_object, **pack, VersionId=version)
    settings = RepositorySettings(url=f"s3://{bucket}/prod", endpoint_url=foreign_s3_endpoint)
    [check] = [check for check in check_store(settings) if check.name == "store.put-if-absent"]
    assert (check.state, "overwrites" in check.said) == ("failed", True)
    assert owner.list_object_versions(Bucket=bucket, Prefix="prod/probe-")["Versions"]
    for each in versions:
        clients["prune"].delete_object(**pack, VersionId=each["VersionId"])
    empty_of_versions(owner, bucket)


def empty_of_versions(owner: Any, bucket: str) -> None:
    found = owner.list_object_versions(Bucket=bucket)
    left = [*found.get("Versions", []), *found.get("DeleteMarkers", [])]
    assert {each["Key"].split("/")[1].split("-")[0] for each in left} == {"probe"}
    for each in left:
        owner.delete_object(Bucket=bucket, Key=each["Key"], VersionId=each["VersionId"])


def test_what_the_other_roles_may_not(bucket: str, clients: Mapping[str, Any]) -> None:
    owner = clients["owner"]
    kinds = ["config", "packs/d/r/0", "segments/d/r/0", "points/v/p", "runs/r/result", "runs/r/open"]
    for kind in kinds:
        owner.put_object(Bucket=bucket, Key=f"prod/{kind}", Body=b"x")
    puts = {"scheduler": {"segments/d/r/0", "points/v/p", "runs/r/result", "runs/r/open"}}
    deletes = {
        "scheduler": {"points/v/p", "runs/r/open"},
        "prune": {kind for kind in kinds if kind != "config"},
    }
    for role in ("restore", "scheduler", "prune"):
        for kind in kinds:
            thing = {"Bucket": bucket, "Key": f"prod/{kind}"}
            assert clients[role].get_object(**thing)["Body"].read() == b"x"
            if kind not in puts.get(role, ()):
                assert_denied(clients[role].put_object, **thing, Body=b"x")
            if kind not in deletes.get(role, ()):
                assert_denied(clients[role].delete_object, **thing)
            else:
                clients[role].delete_object(**thing)
                owner.put_object(**thing, Body=b"x")
        assert_denied(clients[role].put_bucket_policy, Bucket=bucket, Policy=bucket_policy(bucket, "prod"))
