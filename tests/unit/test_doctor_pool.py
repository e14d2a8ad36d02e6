"""The doctor and a pool: each thing that can be wrong there, made once, and what is said about it."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest

from infra.simulator import DiskSpec, PoolSpec, SimulatedPool, Timing, UserSpec, VmSpec, plain_pool
from infra.simulator.attachments import attach_to_dom0, detach_from_dom0
from scheduler.checks.check import Check
from scheduler.checks.doctor import look_at_pool
from scheduler.checks.ledger_facts import LedgerFacts
from scheduler.checks.nbd import check_handshakes
from scheduler.checks.pool import check_clock
from scheduler.checks.pool_facts import FEW, MANY, PoolFacts
from scheduler.checks.slots import Plugged, check_connections, plugged_disks
from scheduler.checks.storage import check_storage
from scheduler.policies.policy import Policy
from scheduler.pool_objects.ownership import OwnershipTag
from tests.until import until
from workers.fleet import Host
from workers.nbd import Deadlines
from workers.settings import PoolSettings
from workers.xenapi import Session

SPEC = plain_pool(
    vms=1,
    disks=1,
    disk_size=1 << 20,
    second_network=False,
    timing=Timing(login_failure_delay=0.1),
    users=tuple(
        UserSpec(role, "secret", role) for role in ("read-only", "vm-operator", "vm-admin", "vm-power-admin")
    ),
)
ALL = {
    f"pool.{part}"
    for part in (
        "reachable version hosts licence role clock networks handshake connections storage".split()  # noqa: SIM905
    )
}


def settings_of(pool: SimulatedPool, **changes: object) -> PoolSettings:
    settings = {
        "url": pool.url,
        "username": "root",
        "password_file": str(pool.password_file),
        "ca_file": str(pool.ca_file),
        "nbd_port": pool.state.nbd_port,
    }
    return PoolSettings.model_validate(settings | changes)


def facts_of(pool: SimulatedPool, **changes: object) -> PoolFacts:
    facts = PoolFacts("lab", settings_of(pool, **changes))
    facts.gather()
    return facts


def looked(pool: SimulatedPool, **changes: object) -> list[Check]:
    return look_at_pool(facts_of(pool, **changes), {}, None, None)


def not_ok(checks: list[Check]) -> list[Check]:
    return [check for check in checks if check.state != "ok"]


@pytest.fixture
def pool() -> Iterator[SimulatedPool]:
    with SimulatedPool.start(SPEC) as pool:
        yield pool


def test_a_good_pool(pool: SimulatedPool) -> None:
    pool.clear_log()
    checks = looked(pool)
    assert not_ok(checks) == []
    assert {check.name for check in checks} == ALL
    assert sum(check.name == "pool.handshake" for check in checks) == 2
    pool.wait_until_let_go()
    left = pool.leftovers()
    assert (left["sessions"], left["plugged_vbds"]) == (0, [])


def test_the_number_of_calls_does_not_grow_with_vms_and_disks(pool: SimulatedPool) -> None:
    pool.clear_log()
    looked(pool)
    few = pool.log()["calls"]
    big = replace(
        SPEC,
        vms=tuple(VmSpec(f"vm{n}", (DiskSpec(1 << 16, fill="zero"),) * 4, ("backup",)) for n in range(30)),
    )
    with SimulatedPool.start(big) as many:
        looked(many)
        assert many.log()["calls"] == few
    assert all(few[f"{kind}.get_all_records"] <= 2 for kind in FEW + MANY)


Break = Callable[[SimulatedPool], object]


@contextmanager
def broken(pool: SimulatedPool, what: Break, repair: Break) -> Iterator[None]:
    what(pool)
    try:
        yield
    finally:
        repair(pool)


def update(kind: str, number: int = 1, **fields: object) -> Break:
    def do(pool: SimulatedPool) -> None:
        with pool.state.lock:
            pool.state.database.update(kind, pool.state.database.refs(kind)[number], **fields)

    return do


def other(pool: SimulatedPool) -> str:
    return pool.hosts[1].uuid


@pytest.mark.parametrize(
    ("what", "repair", "name", "state", "said", "todo"),
    [
        (
            lambda pool: pool.set_purpose(None),
            lambda pool: pool.set_purpose("nbd"),
            "pool.networks",
            "failed",
            "no network of pool lab has an NBD purpose",
            "param-key=nbd",
        ),
        (
            lambda pool: pool.set_purpose("insecure_nbd"),
            lambda pool: pool.set_purpose("nbd"),
            "pool.networks",
            "failed",
            "insecure_nbd, which has no TLS: nothing is read over it",
            "the purpose nbd instead, or set allow_insecure_nbd = true",
        ),
        (
            update("PIF", IP="", IPv6=[]),
            update("PIF", IP="127.0.1.2"),
            "pool.networks",
            "warning",
            "lab-host2 has no plugged PIF",
            "plug the PIF in",
        ),
        (
            lambda pool: pool.set_host(other(pool), "down"),
            lambda pool: pool.set_host(other(pool), "up"),
            "pool.hosts",
            "warning",
            "lab-host2 is offline",
            "xe host-forget uuid=",
        ),
        (
            update("host", enabled=False),
            update("host", enabled=True),
            "pool.hosts",
            "warning",
            "lab-host2 is disabled",
            "xe host-enable uuid=",
        ),
        (
            update("host", software_version={"product_brand": "XenServer", "product_version": "9"}),
            update("host", software_version={"product_brand": "XenServer", "product_version": "8.4.0"}),
            "pool.version",
            "warning",
            "XenServer 8.4.0 on lab-host1; XenServer 9 on lab-host2",
            "end the upgrade",
        ),
        (
            update("pool", 0, restrictions={"restrict_cbt": "true"}),
            update("pool", 0, restrictions={"restrict_cbt": "false"}),
            "pool.licence",
            "warning",
            "does not include changed block tracking",
            "license the pool",
        ),
        (
            lambda pool: pool.rotate_certificate(other(pool)),
            lambda pool: pool.restart_nbd(other(pool)),
            "pool.handshake",
            "warning",
            "failed the certificate check",
            "systemctl restart xapi-nbd",
        ),
        (
            lambda pool: pool.hosts[1].stop_nbd(),
            lambda pool: pool.hosts[1].start_nbd(),
            "pool.handshake",
            "warning",
            "cannot be reached: connection refused",
            "open the way from this machine",
        ),
        (
            lambda pool: pool.add_fault(nbd="eof_at_accept", host=other(pool)),
            lambda pool: pool.clear_faults(),
            "pool.handshake",
            "warning",
            "closed the connection without a greeting",
            "cbtfleet slots",
        ),
        (
            lambda pool: pool.add_fault(nbd="stall_at_accept", host=other(pool)),
            lambda pool: pool.clear_faults(),
            "pool.handshake",
            "warning",
            "did not send its greeting within 0.3 s",
            "systemctl status xapi-nbd",
        ),
        (
            lambda pool: pool.add_fault(xapi="SM.get_all_records", failure=["RBAC_PERMISSION_DENIED", "sm"]),
            lambda pool: pool.clear_faults(),
            "pool.storage",
            "warning",
            "could not be looked at: pool lab: SM.get_all_records failed",
            "set that right",
        ),
        (
            lambda pool: pool.add_fault(xapi="SR.get_all_records", delay=3.0),
            lambda pool: pool.clear_faults(),
            "pool.storage",
            "warning",
            "could not be looked at: pool lab: SR.get_all_records",
            "set that right",
        ),
        (
            lambda pool: pool.add_fault(xapi="host.get_servertime", failure=["INTERNAL_ERROR", "no clock"]),
            lambda pool: pool.clear_faults(),
            "pool.clock",
            "warning",
            "host.get_servertime failed",
            "look at the clock",
        ),
        (
            lambda pool: pool.add_fault(
                xapi="session.get_is_local_superuser", failure=["MESSAGE_METHOD_UNKNOWN", "session"]
            ),
            lambda pool: pool.clear_faults(),
            "pool.role",
            "warning",
            "not known",
            "vm-power-admin",
        ),
    ],
)
def test_one_thing_is_wrong_and_all_the_rest_is_still_looked_at(
    pool: SimulatedPool,
    monkeypatch: pytest.MonkeyPatch,
    what: Break,
    repair: Break,
    name: str,
    state: str,
    said: str,
    todo: str,
) -> None:
    quick = Deadlines(connect=2, handshake=2, greeting=0.3 if "0.3" in said else 2, close=2)
    monkeypatch.setattr("scheduler.checks.nbd.PROBE_DEADLINES", quick)
    with broken(pool, what, repair):
        checks = looked(pool, timeout=1 if "SR.get_all_records" in said else 10)
    wrong = [check for check in not_ok(checks) if check.name == name]
    assert wrong
    assert wrong[0].state == state
    assert said in wrong[0].said
    assert todo in wrong[0].todo
    related = {"pool.handshake"} if name in ("pool.networks", "pool.hosts") else set()
    assert {check.name for check in not_ok(checks)} <= {name} | related
    assert {check.name for check in checks} | {name} | related >= ALL
    assert not_ok(looked(pool)) == []


def test_both_purposes_at_once() -> None:
    with SimulatedPool.start(PoolSpec()) as pool:
        pool.set_purpose("insecure_nbd", "storage")
        checks = looked(pool)
    assert ("pool.networks", "failed") in {(check.name, check.state) for check in checks}
    assert "refuse every NBD connection" in str(not_ok(checks))


def test_a_host_that_nobody_reaches_makes_a_run_fail_when_it_is_the_only_one(pool: SimulatedPool) -> None:
    for host in pool.hosts:
        host.stop_nbd()
    try:
        checks = looked(pool)
    finally:
        for host in pool.hosts:
            host.start_nbd()
    assert {(check.name, check.state) for check in not_ok(checks)} == {("pool.handshake", "failed")}


def test_a_local_disk_whose_host_cannot_be_read_from_makes_a_run_fail() -> None:
    vms = tuple(VmSpec(f"vm{n}", (DiskSpec(1 << 20, sr="local"),), ("backup",), host=n) for n in range(2))
    with SimulatedPool.start(replace(SPEC, vms=vms, local_srs=True)) as pool:
        pool.rotate_certificate(other(pool))
        policies = {"nightly": Policy.model_validate({"pool": "lab", "include": {"tags": ["backup"]}})}
        checks = look_at_pool(facts_of(pool), policies, None, None)
    on_host, lost = not_ok(checks)
    assert (on_host.state, on_host.about) == ("warning", "lab-host2")
    assert (lost.name, lost.state) == ("pool.handshake", "failed")
    assert lost.said.startswith("1 disk on Local storage of lab-host2 can be read from no host")


def test_a_host_whose_certificate_is_not_told_is_not_accused(pool: SimulatedPool) -> None:
    pool.add_fault(xapi="VDI.get_nbd_info", failure=["INTERNAL_ERROR", "no"])
    pool.add_fault(xapi="host.get_server_certificate", failure=["INTERNAL_ERROR", "no"])
    try:
        [check] = not_ok(looked(pool))
    finally:
        pool.clear_faults()
    assert (check.name, check.state) == ("pool.handshake", "warning")
    assert "its certificate is not known: pool lab: host.get_server_certificate failed" in check.said


def test_a_host_with_every_connection_taken_is_busy_and_not_pushed() -> None:
    with SimulatedPool.start(PoolSpec(hosts=1, connection_limit=1, second_network=False)) as pool:
        host = pool.hosts[0]
        with socket.create_connection((host.address, host.nbd_port)):
            until(lambda: pool.log()["slots"] == {host.uuid: 1})
            [busy] = [check for check in looked(pool) if check.name == "pool.handshake"]
        assert (busy.state, "without a greeting" in busy.said) == ("warning", True)
        pool.wait_until_let_go()
        facts = facts_of(pool)
        pool.clear_log()
        [busy] = check_handshakes(facts, {host.uuid: 15})
        assert (busy.state, busy.about) == ("warning", host.name)
        assert "not tried, as 15 of its 16 connections are in use" in busy.said
        assert pool.log()["connections"] == []


@pytest.mark.parametrize(
    ("role", "refused", "least"),
    [
        (
            "read-only",
            {"VM.snapshot", "VDI.enable_cbt", "VDI.list_changed_blocks", "VDI.get_nbd_info"},
            "failed",
        ),
        ("vm-operator", {"VM.snapshot", "VDI.enable_cbt", "VDI.data_destroy"}, "failed"),
        ("vm-admin", {"VM.snapshot"}, "failed"),
        ("vm-power-admin", set(), "ok"),
    ],
)
def test_what_a_role_would_be_refused_is_said_before_the_night(
    pool: SimulatedPool, role: str, refused: set[str], least: str
) -> None:
    checks = looked(pool, username=role, password_file=None, password="secret")
    found = [check for check in checks if check.name == "pool.role"]
    said = " ".join(check.said for check in found if check.state != "ok")
    assert all(call in said for call in refused)
    assert ("VM.snapshot" in said) == ("VM.snapshot" in refused)
    assert found[0].state == least
    if refused:
        assert found[0].todo == "give the user the role vm-power-admin or above"


def test_a_pool_that_does_not_list_what_a_session_may_do(pool: SimulatedPool) -> None:
    pool.add_fault(
        xapi="session.get_rbac_permissions",
        failure=["MESSAGE_METHOD_UNKNOWN", "session.get_rbac_permissions"],
    )
    try:
        checks = looked(pool, username="vm-admin", password_file=None, password="secret")
    finally:
        pool.clear_faults()
    [role] = [check for check in checks if check.name == "pool.role"]
    assert (role.state, role.said.startswith("not known")) == ("warning", True)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"password_file": None, "password": "s3cret-wrong"}, "password"),
        ({"ca_file": None, "certificate_sha256": "ab" * 32}, "certificate"),
        ({"url": "https://127.0.0.1:1"}, "127.0.0.1"),
    ],
)
def test_a_pool_that_cannot_be_entered(pool: SimulatedPool, changes: dict[str, object], said: str) -> None:
    [check] = looked(pool, **changes)
    assert (check.name, check.state) == ("pool.reachable", "failed")
    assert check.todo
    assert said in check.said
    assert "s3cret" not in f"{check}"


def test_no_verification_is_said(pool: SimulatedPool) -> None:
    [check] = not_ok(looked(pool, ca_file=None, verify_tls=False))
    assert (check.name, check.state) == ("pool.tls", "warning")


def test_clocks(pool: SimulatedPool) -> None:
    facts = facts_of(pool)
    assert [check.state for check in check_clock(facts)] == ["ok"]
    facts.ahead = -400.0
    assert [check.state for check in check_clock(facts)] == ["failed"]
    facts.ahead = 30.0
    [check] = check_clock(facts)
    assert (check.state, check.said) == ("warning", "30.0 s ahead of this machine's")


def test_storage_without_tracking_and_storage_that_no_host_has() -> None:
    spec = replace(SPEC, sr_has_cbt=False)
    with SimulatedPool.start(spec) as pool:
        facts = facts_of(pool)
        disks = list(facts.of("VDI"))
        [check] = check_storage(facts, disks)
        assert (check.state, "cannot track changed blocks" in check.said) == ("warning", True)
        assert check_storage(facts, []) == []
        with pool.state.lock:
            for ref in pool.state.database.refs("PBD"):
                pool.state.database.update("PBD", ref, currently_attached=False)
        [check] = check_storage(facts_of(pool), disks)
        assert (check.state, "plugged in to no live host" in check.said) == ("failed", True)
        assert "xe pbd-plug" in check.todo


def host_row(uuid: str, used: int) -> Host:
    return Host("lab", uuid, 16, 0, 0, 0.0, used, 0, 0, 0, 1.0, 16)


def test_connections_of_ours_that_nobody_holds_and_those_of_others(pool: SimulatedPool) -> None:
    [vm] = pool.vms()
    live = vm["disks"][0]["vdi"]
    host = pool.hosts[0]
    with Session.login("lab", settings_of(pool)) as session:
        snapshots = [session.call("VDI.snapshot", session.call("VDI.get_by_uuid", live)) for _ in range(2)]
        uuids = [session.call("VDI.get_uuid", ref) for ref in snapshots]
        OwnershipTag("run", "ours", uuids[0], vm["uuid"], live, "Running").write(session, snapshots[0])
        with pool.state.lock:
            vbds = [attach_to_dom0(pool.state, host.ref, uuid, "OpaqueRef:1") for uuid in uuids]
        try:
            facts = facts_of(pool)
        finally:
            with pool.state.lock:
                for vbd in vbds:
                    detach_from_dom0(pool.state, vbd, "OpaqueRef:1", 0)
            for ref in snapshots:
                session.call("VDI.destroy", ref)
    plugged = plugged_disks(facts, "ours")
    assert plugged[host.uuid] == Plugged(1, 1)
    assert plugged_disks(facts, None)[host.uuid] == Plugged(0, 2)
    lost, others = check_connections(facts, plugged, LedgerFacts())
    assert lost.said == "lab-host1: 1 disk of ours plugged in that no stream holds"
    assert "systemctl restart xapi-nbd" in lost.todo
    assert others.said == "lab-host1: others have 1 connection of its 16"
    assert others.todo.endswith("set pools.lab.connections_per_host = 15")
    held = LedgerFacts(hosts=(host_row(host.uuid, 1),))
    assert [check.about for check in check_connections(facts, plugged, held)] == ["lab-host1"]
    facts.settings = settings_of(pool, connections_per_host=15)
    [fine] = check_connections(facts, plugged, held)
    assert fine.said == "1 in use by us, 1 by others, on 2 hosts"
