"""A pool in trouble, as the simulator plays it: what the session and the endpoints make of it."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from infra.simulator import PoolSpec, SimulatedPool
from infra.simulator.spec import DiskSpec, Timing, UserSpec, VmSpec
from workers.nbd import Deadlines, Read, Tls, TlsUntrusted, Unreachable, connect
from workers.settings import PoolSettings, RepositorySettings, Settings
from workers.xenapi import (
    CallCancelled,
    CallTimedOut,
    Endpoint,
    HostStarting,
    LoginRefused,
    NotExportable,
    PoolMemory,
    PoolUnreachable,
    Session,
    SessionLost,
    Sessions,
    XapiFailure,
    nbd_endpoints,
)
from workers.xenapi.connection import warn_once

SIZE = 4 << 20
SPEC = PoolSpec(
    hosts=3,
    vms=(VmSpec("web", (DiskSpec(SIZE, "root"), DiskSpec(SIZE, "local", sr="local")), running=False),),
    users=(UserSpec("viewer", "viewer's", "read-only"), UserSpec("operator", "operator's", "vm-operator")),
    local_srs=True,
    timing=Timing(login_failure_delay=0.1, data_destroy_wait=0.2, slot_release_delay=0.0),
)

Start = Callable[..., SimulatedPool]


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """Starts a pool of three hosts with a shared and local storage: `start(firewall="iptables")`."""
    warn_once.cache_clear()
    monkeypatch.setattr("workers.xenapi.endpoints.PROPAGATION_SECONDS", 0.0)
    pools: list[SimulatedPool] = []

    def make(**changes: Any) -> SimulatedPool:
        pool = SimulatedPool.start(dataclasses.replace(SPEC, **changes), tmp_path / f"pool{len(pools)}")
        pools.append(pool)
        return pool

    yield make
    for pool in pools:
        pool.stop()


@pytest.fixture
def pool(start: Start) -> SimulatedPool:
    return start()


@pytest.fixture(scope="module")
def healthy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimulatedPool]:
    """A pool for the tests that leave it as it was."""
    with SimulatedPool.start(SPEC, tmp_path_factory.mktemp("healthy")) as pool:
        yield pool


def _settings(pool: SimulatedPool, **changes: Any) -> PoolSettings:
    values = {
        "url": pool.url,
        "username": "root",
        "password_file": pool.password_file,
        "ca_file": pool.ca_file,
        "timeout": 10,
    }
    return PoolSettings.model_validate({**values, **changes})


def _kept(pool: SimulatedPool, **changes: Any) -> Sessions:
    repository = RepositorySettings(url="file:///nowhere")
    return Sessions(Settings(repository=repository, pools={"lab": _settings(pool, **changes)}))


def _disk(pool: SimulatedPool, session: Session, number: int = 0) -> str:
    return str(session.call("VDI.get_by_uuid", pool.vms()[0]["disks"][number]["vdi"]))


def _read(endpoint: Endpoint) -> bytes:
    tls = Tls("certificate" if endpoint.tls else "none", endpoint.certificate_pem, endpoint.subject)
    buffer = bytearray(SIZE)
    with connect(endpoint.address, endpoint.port, endpoint.export_name, tls, Deadlines(connect=2)) as opened:
        assert len(list(opened.read([Read(0, memoryview(buffer))]))) == 1
    return bytes(buffer)


def _content(pool: SimulatedPool, number: int = 0) -> bytes:
    return pool.content(pool.vms()[0]["disks"][number]["vdi"])


def _calls(pool: SimulatedPool, method: str) -> int:
    return int(pool.log()["calls"].get(method, 0))


# Sessions


def test_a_night_of_streams_costs_a_few_logins(pool: SimulatedPool) -> None:
    def stream(_: int) -> None:
        with kept.borrow("lab") as session:
            assert nbd_endpoints(session, _disk(pool, session), "root")

    with _kept(pool) as kept, ThreadPoolExecutor(4) as threads:
        list(threads.map(stream, range(40)))
        assert pool.leftovers()["sessions"] <= 4
    assert _calls(pool, "session.login_with_password") <= 12
    assert pool.leftovers()["sessions"] == 0


def test_a_session_that_the_pool_threw_out_is_replaced_and_its_export_names_are_good(
    pool: SimulatedPool,
) -> None:
    with Session.login("lab", _settings(pool)) as session:
        disk = _disk(pool, session)
        stale = nbd_endpoints(session, disk, "root")[0]
        pool.end_sessions()
        fresh = nbd_endpoints(session, disk, "root")[0]
        assert fresh.export_name != stale.export_name
        assert _read(fresh) == _content(pool)
    assert pool.leftovers()["sessions"] == 0


def test_a_call_that_changes_is_not_made_again_in_a_new_session(pool: SimulatedPool) -> None:
    with Session.login("lab", _settings(pool)) as session:
        disk = _disk(pool, session)
        pool.end_sessions()
        with pytest.raises(SessionLost, match=r"VDI\.enable_cbt: the session has ended"):
            session.call("VDI.enable_cbt", disk)
    assert _calls(pool, "VDI.enable_cbt") == 1


def test_a_wrong_password_fails_the_pool_with_one_login(pool: SimulatedPool) -> None:
    def stream(_: int) -> None:
        with pytest.raises(LoginRefused, match="user name or password is wrong"), kept.borrow("lab"):
            pass

    with _kept(pool, password_file=None, password="not it") as kept, ThreadPoolExecutor(8) as threads:
        list(threads.map(stream, range(1000)))
    assert _calls(pool, "session.login_with_password") == 1


@pytest.mark.parametrize(
    ("user", "method", "role"),
    [
        ("viewer", "VDI.get_nbd_info", "vm-admin"),
        ("operator", "VDI.enable_cbt", "vm-admin"),
        ("operator", "VDI.data_destroy", "vm-admin"),
        ("viewer", "VDI.list_changed_blocks", "vm-operator"),
        ("operator", "VM.snapshot", "vm-power-admin"),
        ("operator", "SR.scan", "vm-power-admin"),
        ("operator", "network.add_purpose", "pool-admin"),
    ],
)
def test_a_call_beyond_the_users_role_names_the_role_that_it_needs(
    healthy: SimulatedPool, user: str, method: str, role: str
) -> None:
    settings = _settings(healthy, username=user, password_file=None, password=f"{user}'s")
    two = {"VDI.list_changed_blocks", "VM.snapshot", "network.add_purpose"}
    said = f"may not call {method.lower()}; it needs the role {role}"
    with Session.login("lab", settings) as session, pytest.raises(XapiFailure, match=said) as caught:
        session.call(method, *["a", "b"][: 2 if method in two else 1])
    assert caught.value.code == "RBAC_PERMISSION_DENIED"


# Master and members


def test_a_new_master_is_followed_in_the_middle(pool: SimulatedPool) -> None:
    with Session.login("lab", _settings(pool)) as session:
        disk = _disk(pool, session)
        pool.set_master(pool.hosts[1].uuid)
        assert _read(nbd_endpoints(session, disk, "root")[0]) == _content(pool)
        assert session.master_address == pool.hosts[1].address
        assert pool.leftovers()["sessions"] == 1
    assert pool.leftovers()["sessions"] == 0


def test_when_the_master_dies_the_other_hosts_lead_to_the_new_one(pool: SimulatedPool) -> None:
    with _kept(pool) as kept:
        with kept.borrow("lab"):
            pass
        pool.set_host(pool.hosts[0].uuid, "down")
        pool.set_master(pool.hosts[2].uuid)
        for _ in range(3):
            with kept.borrow("lab") as session:
                try:
                    assert session.call("VM.get_all")
                except PoolUnreachable:
                    continue  # what is under way with a dying master fails, and is done again by its step
            assert session.master_address == pool.hosts[2].address
            break
        else:
            pytest.fail("the new master was not found")
    assert _calls(pool, "session.login_with_password") <= 4


def test_a_dead_master_without_a_successor_is_named(pool: SimulatedPool) -> None:
    memory = PoolMemory(addresses=tuple(host.address for host in pool.hosts))
    pool.set_host(pool.hosts[0].uuid, "down")
    with pytest.raises(PoolUnreachable, match=rf"cannot connect to {pool.hosts[0].address}:.*asked 2 more"):
        Session.login("lab", _settings(pool), memory=memory)


def test_a_master_that_is_starting_is_waited_for_but_not_for_ever(pool: SimulatedPool) -> None:
    pool.set_host(pool.hosts[0].uuid, "booting")
    with pytest.raises(HostStarting, match="still starting"):
        Session.login("lab", _settings(pool), patience=0)
    threading.Timer(0.3, pool.set_host, (pool.hosts[0].uuid, "up")).start()
    Session.login("lab", _settings(pool)).logout()
    assert _calls(pool, "session.login_with_password") >= 2


# Calls that take long


def test_a_call_that_waits_for_another_operation_says_for_which(start: Start) -> None:
    pool = start(timing=dataclasses.replace(SPEC.timing, operation_delay=2.0))
    with Session.login("lab", _settings(pool)) as session, Session.login("lab", _settings(pool)) as other:
        disk = _disk(pool, session)
        storage = session.call("VDI.get_SR", disk)
        scan = other.call("Async.SR.scan", storage)
        while not session.call("SR.get_record", storage)["current_operations"]:
            time.sleep(0.01)
        with pytest.raises(CallTimedOut, match=r'"lab shared storage" is held by scan \(Async\.SR\.scan, '):
            session.call_async("VDI.enable_cbt", disk, deadline=0.3)
        while other.call("task.get_record", scan)["status"] == "pending":
            time.sleep(0.05)
        other.call("task.destroy", scan)


def test_a_full_queue_is_asked_again(pool: SimulatedPool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workers.xenapi.tasks._BUSY_FIRST", 0.01)
    pool.add_fault(xapi="VDI.enable_cbt", failure=["TOO_MANY_PENDING_TASKS"], count=3)
    with Session.login("lab", _settings(pool)) as session:
        session.call_async("VDI.enable_cbt", _disk(pool, session))
    assert _calls(pool, "Async.VDI.enable_cbt") == 4
    assert pool.leftovers()["tasks"] == 0


def test_told_to_stop_a_snapshot_that_is_made_all_the_same_is_handed_over(start: Start) -> None:
    pool = start(timing=dataclasses.replace(SPEC.timing, operation_delay=0.3))
    with Session.login("lab", _settings(pool)) as session:
        vm = session.call("VM.get_by_uuid", pool.vms()[0]["uuid"])
        made = session.call_async("VM.snapshot", vm, "new", cancelled=lambda: True)
        assert session.call("VM.get_record", made)["is_a_snapshot"]
    assert _calls(pool, "task.cancel") == 1


def test_told_to_stop_what_does_not_end_is_left_with_a_clear_word(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workers.xenapi.tasks._CANCEL_SECONDS", 0.2)
    pool = start(timing=dataclasses.replace(SPEC.timing, operation_delay=2.0))
    with Session.login("lab", _settings(pool)) as session:
        with pytest.raises(CallCancelled, match="has not ended yet; look what it made") as caught:
            session.call_async("VDI.enable_cbt", _disk(pool, session), cancelled=lambda: True)
        assert not caught.value.ended
    assert pool.leftovers()["tasks"] == 0


# Where a disk can be read


@pytest.mark.parametrize("state", ["down", "unreachable"])
def test_one_dead_host_does_not_keep_the_others_from_serving(
    pool: SimulatedPool, caplog: pytest.LogCaptureFixture, state: Any
) -> None:
    dead = pool.hosts[1]
    with Session.login("lab", _settings(pool)) as session:
        disk = _disk(pool, session)
        before = {each.host for each in nbd_endpoints(session, disk, "root")}
        assert before == {host.uuid for host in pool.hosts}
        pool.set_host(dead.uuid, state)
        found = nbd_endpoints(session, disk, "root")
        assert {each.host for each in found} == before - {dead.uuid}
        assert _read(found[0]) == _content(pool)
        assert _read(found[-1]) == _content(pool)
        nbd_endpoints(session, disk, "root")
        assert len([record for record in caplog.records if record.levelname == "WARNING"]) == 1
        assert f"host {dead.name} does not answer" in caplog.text
        assert f"xe host-forget uuid={dead.uuid}" in caplog.text
        pool.set_host(dead.uuid, "up")
        assert {each.host for each in nbd_endpoints(session, disk, "root")} == before


def test_around_a_dead_host_insecure_networks_too(start: Start) -> None:
    pool = start(purpose="insecure_nbd")
    with Session.login("lab", _settings(pool, allow_insecure_nbd=True)) as session:
        disk = _disk(pool, session)
        nbd_endpoints(session, disk, "root")
        pool.set_host(pool.hosts[1].uuid, "down")
        found = nbd_endpoints(session, disk, "root")
        assert {each.tls for each in found} == {False}
        assert pool.hosts[1].uuid not in {each.host for each in found}
        assert _read(found[0]) == _content(pool)


def test_the_one_host_of_a_local_disk_is_dead(pool: SimulatedPool) -> None:
    owner = pool.hosts[0]
    pool.set_master(pool.hosts[1].uuid)
    settings = _settings(pool, url=f"https://{pool.hosts[1].address}:{pool.hosts[1].port}")
    with Session.login("lab", settings) as session:
        disk = _disk(pool, session, 1)
        assert {each.host for each in nbd_endpoints(session, disk, "local")} == {owner.uuid}
        pool.set_host(owner.uuid, "down")
        with pytest.raises(NotExportable, match=rf"{owner.name} does not .*uuid={owner.uuid}") as caught:
            nbd_endpoints(session, disk, "local")
        assert caught.value.temporary


def test_any_host_serves_a_shared_disk_and_a_local_one_is_served_by_its_own(pool: SimulatedPool) -> None:
    with Session.login("lab", _settings(pool)) as session:
        for each in nbd_endpoints(session, _disk(pool, session), "root"):
            assert _read(each) == _content(pool)
        [only] = {each.host for each in nbd_endpoints(session, _disk(pool, session, 1), "local")}
        assert only == pool.hosts[0].uuid


def test_a_host_without_a_plugged_pbd_serves_nothing(pool: SimulatedPool) -> None:
    with Session.login("lab", _settings(pool)) as session:
        disk = _disk(pool, session)
        storage = session.call("VDI.get_SR", disk)
        host = session.call("host.get_by_uuid", pool.hosts[2].uuid)
        for ref, pbd in session.call("PBD.get_all_records").items():
            if (pbd["SR"], pbd["host"]) == (storage, host):
                session.call("PBD.unplug", ref)
        assert {each.host for each in nbd_endpoints(session, disk, "root")} == {
            each.uuid for each in pool.hosts[:2]
        }


def test_a_host_in_maintenance_is_left_out(pool: SimulatedPool) -> None:
    with Session.login("lab", _settings(pool)) as session:
        host = session.call("host.get_by_uuid", pool.hosts[0].uuid)
        session.call("host.disable", host)
        shared = nbd_endpoints(session, _disk(pool, session), "root")
        assert {each.host for each in shared} == {each.uuid for each in pool.hosts[1:]}
        local = nbd_endpoints(session, _disk(pool, session, 1), "local")
        assert {each.host for each in local} == {pool.hosts[0].uuid}, "nobody else can"
        session.call("host.enable", host)
        assert pool.hosts[0].uuid in {e.host for e in nbd_endpoints(session, _disk(pool, session), "root")}


def test_an_address_that_does_not_answer_leaves_the_others_of_that_host(pool: SimulatedPool) -> None:
    host = pool.hosts[1]
    host.close_address(host.addresses[0])
    with Session.login("lab", _settings(pool)) as session:
        ways = [e for e in nbd_endpoints(session, _disk(pool, session), "root") if e.host == host.uuid]
        assert [each.address for each in ways] == host.addresses
        with pytest.raises(Unreachable):
            _read(ways[0])
        assert _read(ways[1]) == _content(pool)


def test_a_purpose_that_was_just_set_is_waited_for(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    pool = start(purpose=None)
    with Session.login("lab", _settings(pool)) as session:
        disk = _disk(pool, session)
        with pytest.raises(NotExportable, match="no network of pool lab has an NBD purpose"):
            nbd_endpoints(session, disk, "root")
        session.memory.waited_for_nbd = False
        monkeypatch.setattr("workers.xenapi.endpoints.PROPAGATION_SECONDS", 10.0)
        monkeypatch.setattr("workers.xenapi.endpoints._LOOK_AGAIN_SECONDS", 0.05)
        threading.Timer(0.2, pool.set_purpose, ("nbd",)).start()
        assert _read(nbd_endpoints(session, disk, "root")[0]) == _content(pool)


def test_both_purposes_at_once_are_named(pool: SimulatedPool) -> None:
    pool.set_purpose("insecure_nbd", "storage")
    with (
        Session.login("lab", _settings(pool)) as session,
        pytest.raises(NotExportable, match=r"nbd and with insecure_nbd at once.*remove one of the two"),
    ):
        nbd_endpoints(session, _disk(pool, session), "root")


def test_a_certificate_that_was_replaced_under_a_running_nbd_service_is_named_as_that(
    pool: SimulatedPool,
) -> None:
    with Session.login("lab", _settings(pool)) as session:
        disk = _disk(pool, session)
        pool.rotate_certificate(pool.hosts[1].uuid)
        ways = [e for e in nbd_endpoints(session, disk, "root") if e.host == pool.hosts[1].uuid]
        with pytest.raises(TlsUntrusted, match=r"where get_nbd_info says .*restart xapi-nbd there"):
            _read(ways[0])
        pool.restart_nbd(pool.hosts[1].uuid)
        assert _read(ways[0]) == _content(pool)


@pytest.mark.parametrize(
    ("failure", "said"),
    [
        (["HANDLE_INVALID", "VDI", "OpaqueRef:gone"], "the object is gone"),
        (["NOT_SUPPORTED_DURING_UPGRADE"], "rolling upgrade"),
        (["SR_OPERATION_NOT_SUPPORTED", "OpaqueRef:sr"], "cannot do it"),
        (["SR_NO_PBDS", "OpaqueRef:sr"], "not plugged in to a host"),
        (["SR_BACKEND_FAILURE_46", "", "The VDI is not available [opterr=x]", ""], "cannot open the disk"),
        (["VDI_IN_USE"], "or a host has not let go of it"),
        (["LICENCE_RESTRICTION", "CBT"], "licence does not include"),
        (["INTERNAL_ERROR", "Not_found"], "an error of its own"),
        (["OTHER_OPERATION_IN_PROGRESS", "SR", "OpaqueRef:sr", "scan", "OpaqueRef:t"], "scan, holds the SR"),
    ],
)
def test_a_failure_of_the_pool_is_one_clear_line(
    healthy: SimulatedPool, monkeypatch: pytest.MonkeyPatch, failure: list[str], said: str
) -> None:
    monkeypatch.setattr("workers.xenapi.tasks._QUEUE_SECONDS", 0.0)
    healthy.add_fault(xapi="VDI.enable_cbt", failure=failure)
    with Session.login("lab", _settings(healthy)) as session:
        disk = _disk(healthy, session)
        with pytest.raises(XapiFailure) as caught:
            session.call_async("VDI.enable_cbt", disk)
    assert str(caught.value).startswith("pool lab: VDI.enable_cbt failed: ")
    assert said in str(caught.value)
    assert failure[0] in str(caught.value)
    assert "OpaqueRef" not in str(caught.value)
    assert "\n" not in str(caught.value)
