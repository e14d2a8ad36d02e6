"""The session and the endpoints against the simulated pool: members, tasks, roles, purposes, hosts off."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from infra.simulator import PoolSpec, SimulatedPool
from infra.simulator.spec import DiskSpec, Timing, UserSpec, VmSpec
from workers.settings import PoolSettings
from workers.xenapi import (
    AnswerLost,
    CallTimedOut,
    LoginRefused,
    NotExportable,
    Session,
    XapiFailure,
    explain_pool_nbd,
    nbd_endpoints,
)

SPEC = PoolSpec(
    hosts=2,
    vms=(VmSpec("web", (DiskSpec(4 << 20, "root"),)),),
    users=(UserSpec("viewer", "viewer's", "read-only"),),
    timing=Timing(login_failure_delay=0.1, data_destroy_wait=0.2),
)


@pytest.fixture(scope="module")
def _pool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimulatedPool]:
    with SimulatedPool.start(SPEC, tmp_path_factory.mktemp("pool")) as pool:
        yield pool


@pytest.fixture(autouse=True)
def _no_purpose_is_just_changing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workers.xenapi.endpoints.PROPAGATION_SECONDS", 0.0)


@pytest.fixture
def pool(_pool: SimulatedPool) -> Iterator[SimulatedPool]:
    """A pool with nobody logged in; it has to be so afterwards, too."""
    _pool.clear_log()
    yield _pool
    _pool.clear_faults()
    _pool.set_purpose("nbd")
    left = _pool.leftovers()
    assert (left["sessions"], left["tasks"], left["vm_snapshots"]) == (0, 0, [])


def _settings(pool: SimulatedPool, **changes: Any) -> PoolSettings:
    values = {
        "url": pool.url,
        "username": "root",
        "password_file": pool.password_file,
        "ca_file": pool.ca_file,
        "timeout": 10,
    }
    return PoolSettings.model_validate({**values, **changes})


def _member_url(pool: SimulatedPool) -> str:
    return f"https://{pool.hosts[1].address}:{pool.hosts[1].port}"


@pytest.fixture
def session(pool: SimulatedPool) -> Iterator[Session]:
    with Session.login("lab", _settings(pool)) as session:
        yield session


def _disk(pool: SimulatedPool, session: Session) -> str:
    return str(session.call("VDI.get_by_uuid", pool.vms()[0]["disks"][0]["vdi"]))


def _vm(pool: SimulatedPool, session: Session) -> str:
    return str(session.call("VM.get_by_uuid", pool.vms()[0]["uuid"]))


def test_any_member_leads_to_the_master(pool: SimulatedPool) -> None:
    with Session.login("lab", _settings(pool, url=_member_url(pool))) as session:
        assert session.master_address == pool.hosts[0].address
        assert session.call("pool.get_master", session.call("pool.get_all")[0])
    assert pool.log()["calls"]["session.logout"] == 1


def test_a_pinned_certificate(pool: SimulatedPool) -> None:
    digest = pool.describe()["certificate_sha256"]
    Session.login("lab", _settings(pool, ca_file=None, certificate_sha256=digest)).logout()


def test_wrong_password(pool: SimulatedPool) -> None:
    with pytest.raises(LoginRefused, match="user name or password is wrong"):
        Session.login("lab", _settings(pool, password_file=None, password="not it"))


def test_a_role_that_is_too_low_is_named(pool: SimulatedPool) -> None:
    settings = _settings(pool, username="viewer", password_file=None, password="viewer's")
    with Session.login("lab", settings) as session:
        vm = _vm(pool, session)
        with pytest.raises(XapiFailure, match=r"may not call \S+; it needs the role vm-power-admin"):
            session.call_async("VM.snapshot", vm, "new")


def test_a_snapshot_and_its_end_as_tasks(pool: SimulatedPool, session: Session) -> None:
    snapshot = session.call_async("VM.snapshot", _vm(pool, session), "new", [])
    assert session.call("VM.get_record", snapshot)["is_a_snapshot"] is True
    disks = [session.call("VBD.get_VDI", vbd) for vbd in session.call("VM.get_VBDs", snapshot)]
    assert session.call_async("VM.destroy", snapshot) == ""
    for disk in disks:
        session.call_async("VDI.destroy", disk)


def test_a_task_that_fails(pool: SimulatedPool, session: Session) -> None:
    disk = _disk(pool, session)
    with pytest.raises(XapiFailure) as caught:
        session.call_async("VDI.data_destroy", disk)
    assert caught.value.code == "OPERATION_NOT_ALLOWED"


def test_an_answer_that_is_lost_leaves_one_snapshot(pool: SimulatedPool, session: Session) -> None:
    vm = _vm(pool, session)
    pool.add_fault(xapi="VM.snapshot", drop_reply=True)
    with pytest.raises(AnswerLost):
        session.call("VM.snapshot", vm, "once", [])
    found = session.call("VM.get_by_name_label", "once")
    assert len(found) == 1
    disks = [session.call("VBD.get_VDI", vbd) for vbd in session.call("VM.get_VBDs", found[0])]
    session.call("VM.destroy", found[0])
    for disk in disks:
        session.call("VDI.destroy", disk)


def test_an_answer_that_is_late(pool: SimulatedPool) -> None:
    with Session.login("lab", _settings(pool, timeout=0.5)) as session:
        pool.add_fault(xapi="pool.get_all", delay=1.5)
        with pytest.raises(CallTimedOut):
            session.call("pool.get_all")


def test_a_stale_object(pool: SimulatedPool, session: Session) -> None:
    with pytest.raises(XapiFailure, match="no object with this uuid"):
        session.call("VDI.get_by_uuid", "00000000-0000-0000-0000-000000000000")
    with pytest.raises(XapiFailure, match="the object is gone") as caught:
        session.call("VDI.get_record", "OpaqueRef:nothing")
    assert caught.value.code == "HANDLE_INVALID"


def test_every_endpoint_has_its_host(pool: SimulatedPool, session: Session) -> None:
    found = nbd_endpoints(session, _disk(pool, session), "root")
    by_host = {host.uuid: host for host in pool.hosts}
    assert {endpoint.host for endpoint in found} == set(by_host)
    for endpoint in found:
        assert endpoint.host_name == by_host[endpoint.host].name
        assert endpoint.port == pool.describe()["nbd_port"]
        assert endpoint.tls
        assert endpoint.certificate_pem.startswith("-----BEGIN CERTIFICATE-----")
        if ":" not in endpoint.address:
            assert endpoint.address in by_host[endpoint.host].addresses
    v6 = [":" in endpoint.address for endpoint in found]
    assert v6 == sorted(v6)
    assert explain_pool_nbd(session).problems == ()


def test_insecure_networks(pool: SimulatedPool) -> None:
    pool.set_purpose("insecure_nbd")
    with Session.login("lab", _settings(pool, allow_insecure_nbd=True)) as session:
        assert {endpoint.tls for endpoint in nbd_endpoints(session, _disk(pool, session), "root")} == {False}


def test_no_purpose(pool: SimulatedPool, session: Session) -> None:
    pool.set_purpose(None)
    with pytest.raises(NotExportable, match="no network of pool lab has an NBD purpose"):
        nbd_endpoints(session, _disk(pool, session), "root")
    assert "no network" in explain_pool_nbd(session).problems[0]


def test_a_snapshot_without_data(pool: SimulatedPool, session: Session) -> None:
    disk = _disk(pool, session)
    session.call("VDI.enable_cbt", disk)
    snapshot = session.call_async("VDI.snapshot", disk, {})
    session.call_async("VDI.data_destroy", snapshot)
    with pytest.raises(NotExportable, match="metadata-only snapshot"):
        nbd_endpoints(session, snapshot, "root")
    session.call_async("VDI.destroy", snapshot)


def test_a_host_that_is_off_is_named(tmp_path: Path) -> None:
    with (
        SimulatedPool.start(dataclasses.replace(SPEC, seed=2), tmp_path) as pool,
        Session.login("lab", _settings(pool)) as session,
    ):
        pool.set_host(pool.hosts[1].uuid, "down")
        problem = explain_pool_nbd(session).problems[0]
        assert f"host {pool.hosts[1].name} is offline" in problem
        assert f"xe host-forget uuid={pool.hosts[1].uuid}" in problem
