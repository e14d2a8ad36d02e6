"""From the addresses that XAPI gives to hosts, and what is said when there are none."""

from __future__ import annotations

import copy
import logging
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from tests.certificates import make_identity
from workers.xenapi import BadAnswer, NotExportable, Session, XapiFailure, explain_pool_nbd, nbd_endpoints

VDI = "OpaqueRef:vdi"
EXPORT = "/8a3b?session_id=OpaqueRef:live-credential"


def _host(name: str, address: str) -> dict[str, Any]:
    return {
        "uuid": f"uuid-{name}",
        "name_label": name,
        "hostname": name,
        "address": address,
        "metrics": f"OpaqueRef:metrics-{name}",
    }


def _pif(host: str, network: str, ip: str, *ipv6: str, attached: bool = True) -> dict[str, Any]:
    return {
        "host": f"OpaqueRef:{host}",
        "network": f"OpaqueRef:{network}",
        "IP": ip,
        "IPv6": list(ipv6),
        "currently_attached": attached,
    }


POOL: dict[str, Any] = {
    "host": {"OpaqueRef:a": _host("a", "10.0.0.1"), "OpaqueRef:b": _host("b", "10.0.0.2")},
    "host_metrics": {"OpaqueRef:metrics-a": {"live": True}, "OpaqueRef:metrics-b": {"live": True}},
    "network": {
        "OpaqueRef:management": {"uuid": "uuid-m", "name_label": "management", "purpose": []},
        "OpaqueRef:backup": {"uuid": "uuid-n", "name_label": "backup", "purpose": ["nbd"]},
    },
    "PIF": {
        "OpaqueRef:p1": _pif("a", "management", "10.0.0.1"),
        "OpaqueRef:p2": _pif("b", "management", "10.0.0.2"),
        "OpaqueRef:p3": _pif("a", "backup", "10.1.0.1", "fd00::1/64", "fe80::1/64"),
        "OpaqueRef:p4": _pif("b", "backup", "10.1.0.2"),
    },
    "PBD": {
        "OpaqueRef:pbd-a": {"host": "OpaqueRef:a", "SR": "OpaqueRef:sr", "currently_attached": True},
        "OpaqueRef:pbd-b": {"host": "OpaqueRef:b", "SR": "OpaqueRef:sr", "currently_attached": True},
        "OpaqueRef:pbd-c": {"host": "OpaqueRef:b", "SR": "OpaqueRef:other", "currently_attached": True},
    },
}


def _info(address: str, subject: str = "xen", cert: str = "PEM", port: Any = "10809") -> dict[str, Any]:
    return {"address": address, "port": port, "exportname": EXPORT, "cert": cert, "subject": subject}


@pytest.fixture
def pool(xapi: Any) -> dict[str, Any]:
    """The pool's records, to be changed by the test."""
    records = copy.deepcopy(POOL)
    _serve(xapi, records)
    return records


def _serve(xapi: Any, records: dict[str, Any]) -> None:
    for kind in records:
        xapi.handlers[f"{kind}.get_all_records"] = lambda kind=kind: records[kind]
    xapi.handlers["VDI.get_record"] = lambda _: {"uuid": "uuid-vdi", "type": "user", "SR": "OpaqueRef:sr"}
    xapi.handlers["VDI.get_SR"] = lambda _: "OpaqueRef:sr"
    xapi.handlers["SR.get_name_label"] = lambda _: "NFS 1"


@pytest.fixture
def session(xapi: Any) -> Iterator[Session]:
    with Session.login("lab", xapi.settings()) as session:
        yield session


def _refused(session: Session) -> NotExportable:
    with pytest.raises(NotExportable) as caught:
        nbd_endpoints(session, VDI, "web root")
    assert "web root" not in str(caught.value), "the caller says which disk"
    assert "OpaqueRef" not in str(caught.value)
    return caught.value


def test_each_address_belongs_to_its_host_and_ipv6_is_left_out(
    xapi: Any, pool: dict[str, Any], session: Session
) -> None:
    infos = [
        _info("fd00:0::1/64"),
        _info("10.1.0.2"),
        _info("fe80::1/64"),
        _info("10.1.0.1"),
        _info("10.1.0.1"),
    ]
    xapi.say("VDI.get_nbd_info", infos)
    found = nbd_endpoints(session, VDI, "web root")
    assert [(e.host, e.host_name, e.address, e.port, e.tls) for e in found] == [
        ("uuid-a", "a", "10.1.0.1", 10809, True),
        ("uuid-b", "b", "10.1.0.2", 10809, True),
    ]
    assert found[0].export_name == EXPORT
    assert "credential" not in repr(found)
    assert xapi.methods()[1:] == [
        "host.get_all_records",
        "PIF.get_all_records",
        "network.get_all_records",
        "host_metrics.get_all_records",
        "VDI.get_nbd_info",
    ], "the export names come last, so that no later call can make them void"


def test_ipv6_is_taken_where_there_is_nothing_else(xapi: Any, pool: dict[str, Any], session: Session) -> None:
    xapi.say("VDI.get_nbd_info", [_info("fd00:0::1/64")])
    assert [(e.host, e.address) for e in nbd_endpoints(session, VDI, "web root")] == [("uuid-a", "fd00::1")]


def test_a_pif_without_ipv6_and_a_network_without_purpose_are_fine(
    xapi: Any, pool: dict[str, Any], session: Session
) -> None:
    for pif in pool["PIF"].values():
        del pif["IPv6"]
    del pool["network"]["OpaqueRef:management"]["purpose"]
    xapi.say("VDI.get_nbd_info", [_info("10.1.0.2", port=10809)])
    assert [(e.host, e.port) for e in nbd_endpoints(session, VDI, "web root")] == [("uuid-b", 10809)]


def test_hosts_at_one_address_alone_are_told_apart_by_their_ports(
    xapi: Any, pool: dict[str, Any], session: Session
) -> None:
    pool["PIF"]["OpaqueRef:p4"]["IP"] = "10.1.0.1"
    for port in ("10809", "10810"):
        xapi.say("VDI.get_nbd_info", [_info("10.1.0.1", port=port)])
    xapi.say("VDI.get_nbd_info", [_info("10.1.0.1", port="10810"), _info("10.1.0.1")])
    [first] = nbd_endpoints(session, VDI, "web root")
    [second] = nbd_endpoints(session, VDI, "web root")
    assert first.host != second.host
    assert (second.host_name, second.tls) == ("10.1.0.1:10810", True)
    assert nbd_endpoints(session, VDI, "web root") == [first, second]


def test_hosts_that_share_one_of_several_addresses_are_never_counted_twice(
    xapi: Any, pool: dict[str, Any], session: Session
) -> None:
    pool["PIF"]["OpaqueRef:p5"] = _pif("b", "backup", "10.1.0.1")
    xapi.say("VDI.get_nbd_info", [_info("10.1.0.1"), _info("10.1.0.1", port="10810"), _info("10.1.0.2")])
    assert [(e.host, e.address) for e in nbd_endpoints(session, VDI, "web root")] == [("uuid-b", "10.1.0.2")]


def test_insecure_networks_are_read_without_tls_and_said_once(
    start_xapi: Any, caplog: pytest.LogCaptureFixture
) -> None:
    xapi, records = start_xapi(), copy.deepcopy(POOL)
    _serve(xapi, records)
    records["network"]["OpaqueRef:backup"]["purpose"] = ["insecure_nbd"]
    with Session.login("lab", xapi.settings(allow_insecure_nbd=True)) as session:
        for _ in range(2):
            xapi.say("VDI.get_nbd_info", [_info("10.1.0.1")])
            assert [e.tls for e in nbd_endpoints(session, VDI, "web root")] == [False]
    assert len(caplog.records) == 1
    assert "without encryption" in caplog.text


def test_insecure_networks_are_not_read_unless_the_pool_allows_it(
    xapi: Any, pool: dict[str, Any], session: Session
) -> None:
    pool["network"]["OpaqueRef:backup"]["purpose"] = ["insecure_nbd"]
    xapi.say("VDI.get_nbd_info", [_info("10.1.0.1")])
    with pytest.raises(NotExportable) as refused:
        nbd_endpoints(session, VDI, "web root")
    assert str(refused.value) == (
        "pool lab: the network of a has the purpose insecure_nbd, which has no TLS: nothing is sent there;"
        " give it the purpose nbd instead, or set pools.lab.allow_insecure_nbd = true"
    )


@pytest.mark.parametrize(
    ("address", "subject", "host"),
    [
        ("10.0.0.2", "xen", "uuid-b"),
        ("192.0.2.5", "b", "uuid-b"),
        ("192.0.2.5", "A.example.org", "uuid-a"),
        ("xen-a.example", "a.example.org", "uuid-a"),
    ],
)
def test_an_address_without_a_pif_is_found_by_host_address_or_certificate(
    xapi: Any, pool: dict[str, Any], session: Session, address: str, subject: str, host: str
) -> None:
    for ref in ("OpaqueRef:p1", "OpaqueRef:p2"):
        del pool["PIF"][ref]
    xapi.say("VDI.get_nbd_info", [_info(address, subject)])
    assert [(e.host, e.tls) for e in nbd_endpoints(session, VDI, "web root")] == [(host, True)]


def test_an_address_that_two_hosts_claim_goes_by_the_plugged_pif_then_the_name(
    xapi: Any, pool: dict[str, Any], session: Session
) -> None:
    pool["PIF"]["OpaqueRef:p5"] = _pif("b", "backup", "10.1.0.1", attached=False)
    xapi.say("VDI.get_nbd_info", [_info("10.1.0.1")])
    assert [e.host for e in nbd_endpoints(session, VDI, "web root")] == ["uuid-a"]
    pool["PIF"]["OpaqueRef:p5"]["currently_attached"] = True
    xapi.say("VDI.get_nbd_info", [_info("10.1.0.1", "b.example")])
    assert [e.host for e in nbd_endpoints(session, VDI, "web root")] == ["uuid-b"]


def test_unknown_addresses_are_left_out_and_none_left_is_an_error(
    xapi: Any, pool: dict[str, Any], session: Session, caplog: pytest.LogCaptureFixture
) -> None:
    xapi.say("VDI.get_nbd_info", [_info("192.0.2.5"), _info("10.1.0.1")], [_info("192.0.2.5")])
    assert [e.address for e in nbd_endpoints(session, VDI, "web root")] == ["10.1.0.1"]
    assert "192.0.2.5 belongs to no known host" in caplog.text
    assert "none of its NBD addresses (192.0.2.5) belongs to a host" in str(_refused(session))


def _unplug_storage(pool: dict[str, Any]) -> None:
    for ref in ("OpaqueRef:pbd-a", "OpaqueRef:pbd-b"):
        pool["PBD"][ref]["currently_attached"] = False


def _lose_hosts_with_storage(pool: dict[str, Any]) -> None:
    pool["PBD"]["OpaqueRef:pbd-a"]["currently_attached"] = False
    pool["host_metrics"]["OpaqueRef:metrics-b"]["live"] = False


def _drop_purpose(pool: dict[str, Any]) -> None:
    pool["network"]["OpaqueRef:backup"]["purpose"] = []


def _mix_purposes(pool: dict[str, Any]) -> None:
    pool["network"]["OpaqueRef:management"]["purpose"] = ["insecure_nbd"]


def _unplug_pifs(pool: dict[str, Any]) -> None:
    pool["PIF"]["OpaqueRef:p3"]["currently_attached"] = False
    pool["PIF"]["OpaqueRef:p4"]["IP"] = ""


def _other_host_only(pool: dict[str, Any]) -> None:
    pool["PBD"]["OpaqueRef:pbd-b"]["currently_attached"] = False
    pool["PIF"]["OpaqueRef:p3"]["currently_attached"] = False


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (_unplug_storage, 'its storage "NFS 1" has no plugged PBD on a live host'),
        (_lose_hosts_with_storage, 'its storage "NFS 1" has no plugged PBD on a live host'),
        (
            _drop_purpose,
            "no network of pool lab has an NBD purpose; on the pool's master: xe network-param-add",
        ),
        (_mix_purposes, "remove one of the two"),
        (_unplug_pifs, "no host that has its storage (a, b) has a plugged PIF with an IP address"),
        (_other_host_only, "no host that has its storage (a) has a plugged PIF with an IP address"),
        (lambda pool: None, "all conditions hold now"),
    ],
)
def test_no_address_names_the_condition_that_fails(
    xapi: Any, pool: dict[str, Any], session: Session, change: Any, text: str
) -> None:
    change(pool)
    xapi.say("VDI.get_nbd_info", [])
    assert text in str(_refused(session))


def test_mixed_purposes_are_refused_although_addresses_come(
    xapi: Any, pool: dict[str, Any], session: Session
) -> None:
    _mix_purposes(pool)
    xapi.say("VDI.get_nbd_info", [_info("10.1.0.1")])
    assert "refuse every NBD connection" in str(_refused(session))


def test_a_disk_without_data(xapi: Any, pool: dict[str, Any], session: Session) -> None:
    xapi.say("VDI.get_nbd_info", xapi.fail("VDI_INCOMPATIBLE_TYPE", VDI, "CBT metadata"))
    refused = _refused(session)
    assert "does not export a disk of this type" in str(refused)
    assert not refused.temporary


def _certificate_of(host: str) -> str:
    return make_identity(dns=("*.example", f"{host.removeprefix('OpaqueRef:')}.example")).pem


@pytest.mark.parametrize("code", ["HOST_OFFLINE", "CANNOT_CONTACT_HOST", "HOST_NOT_LIVE", "HOST_BROKEN"])
def test_around_a_dead_host_the_ways_to_the_others_are_worked_out(
    xapi: Any, pool: dict[str, Any], session: Session, caplog: pytest.LogCaptureFixture, code: str
) -> None:
    pool["host_metrics"]["OpaqueRef:metrics-b"]["live"] = code == "CANNOT_CONTACT_HOST"
    certificate = _certificate_of("a")
    for _ in range(2):
        xapi.say("VDI.get_nbd_info", xapi.fail(code, "OpaqueRef:b"))
        xapi.say("host.get_server_certificate", certificate)
        [found] = nbd_endpoints(session, VDI, "web root")
    assert (found.host, found.address, found.port, found.tls) == ("uuid-a", "10.1.0.1", 10809, True)
    assert (found.certificate_pem, found.subject) == (certificate, "a.example")
    assert found.export_name == f"/uuid-vdi?session_id={next(iter(xapi.sessions))}"
    assert xapi.calls[-1][1][1:] == ("OpaqueRef:a",)
    assert len(caplog.records) == 1
    assert "host b does not answer" in caplog.text
    assert "xe host-forget uuid=uuid-b" in caplog.text
    assert "session" not in caplog.text


def test_the_port_that_xapi_named_before_is_used_around_a_dead_host(
    xapi: Any, pool: dict[str, Any], session: Session
) -> None:
    xapi.say("VDI.get_nbd_info", [_info("10.1.0.1", port="10810")], xapi.fail("HOST_OFFLINE", "OpaqueRef:b"))
    xapi.handlers["host.get_server_certificate"] = _certificate_of
    nbd_endpoints(session, VDI, "web root")
    assert [e.port for e in nbd_endpoints(session, VDI, "web root")] == [10810]


def test_a_call_that_hangs_on_a_dying_host_is_gone_around(start_xapi: Any) -> None:
    xapi, released = start_xapi(), threading.Event()
    _serve(xapi, POOL)
    xapi.say("VDI.get_nbd_info", xapi.hang(released))
    xapi.handlers["host.get_server_certificate"] = _certificate_of
    with Session.login("lab", xapi.settings(timeout=0.3)) as session:
        assert {e.host for e in nbd_endpoints(session, VDI, "web root")} == {"uuid-a", "uuid-b"}
        released.set()


def test_where_a_host_gives_no_certificate_it_is_not_read_from(
    xapi: Any, pool: dict[str, Any], session: Session
) -> None:
    pool["PBD"]["OpaqueRef:pbd-c"]["SR"] = "OpaqueRef:sr"
    xapi.say("VDI.get_nbd_info", xapi.fail("HOST_OFFLINE"))
    xapi.handlers["host.get_server_certificate"] = lambda host: (
        _certificate_of("b") if host == "OpaqueRef:b" else xapi.fail("CANNOT_CONTACT_HOST", host)
    )
    assert {e.host for e in nbd_endpoints(session, VDI, "web root")} == {"uuid-b"}


@pytest.mark.parametrize(("change", "mode"), [("insecure_nbd", "certificate"), ("nbd", "ca")])
def test_without_a_need_for_certificates_none_has_to_be_there(
    start_xapi: Any, change: str, mode: str
) -> None:
    xapi, records = start_xapi(), copy.deepcopy(POOL)
    _serve(xapi, records)
    records["network"]["OpaqueRef:backup"]["purpose"] = [change]
    xapi.say("VDI.get_nbd_info", xapi.fail("HOST_OFFLINE", "OpaqueRef:b"))
    xapi.handlers["host.get_server_certificate"] = lambda _: xapi.fail("MESSAGE_METHOD_UNKNOWN", "x")
    with Session.login("lab", xapi.settings(nbd_tls=mode, allow_insecure_nbd=True)) as session:
        [found] = nbd_endpoints(session, VDI, "web root")
    assert (found.host, found.certificate_pem, found.subject) == ("uuid-a", "", "a")


@pytest.mark.parametrize(
    ("ref", "who", "remedy"),
    [("OpaqueRef:b", "host b", "xe host-forget uuid=uuid-b"), (None, "a host", "look at the pool's hosts")],
)
def test_a_dead_host_that_leaves_no_way_is_named_with_what_to_do(
    xapi: Any, pool: dict[str, Any], session: Session, ref: str | None, who: str, remedy: str
) -> None:
    _lose_hosts_with_storage(pool)
    xapi.say("VDI.get_nbd_info", xapi.fail("HOST_OFFLINE", *([ref] if ref else [])))
    refused = _refused(session)
    assert f"{who} does not answer" in str(refused)
    assert "no other host can serve the disk" in str(refused)
    assert remedy in str(refused)
    assert refused.temporary


def test_around_a_dead_host_a_disk_without_data_is_still_none(
    xapi: Any, pool: dict[str, Any], session: Session
) -> None:
    xapi.handlers["VDI.get_record"] = lambda _: {"uuid": "x", "type": "cbt_metadata", "SR": "OpaqueRef:sr"}
    xapi.say("VDI.get_nbd_info", xapi.fail("HOST_OFFLINE", "OpaqueRef:b"))
    refused = _refused(session)
    assert "metadata-only snapshot" in str(refused)
    assert not refused.temporary


@pytest.mark.parametrize("field", ["live", "enabled"])
def test_a_host_that_is_off_or_in_maintenance_is_left_to_others(
    xapi: Any, pool: dict[str, Any], session: Session, caplog: pytest.LogCaptureFixture, field: str
) -> None:
    caplog.set_level(logging.INFO, "workers.xenapi")
    record = (
        pool["host"]["OpaqueRef:a"] if field == "enabled" else pool["host_metrics"]["OpaqueRef:metrics-a"]
    )
    record[field] = False
    xapi.say("VDI.get_nbd_info", [_info("10.1.0.1"), _info("10.1.0.2")], [_info("10.1.0.1")])
    assert [e.host_name for e in nbd_endpoints(session, VDI, "web root")] == ["b"]
    assert "host a is not read from: it is " + ("offline" if field == "live" else "disabled") in caplog.text
    assert [e.host_name for e in nbd_endpoints(session, VDI, "web root")] == ["a"], "better than none"


def test_a_pool_that_tells_nothing_of_its_hosts_health_is_read_from(
    xapi: Any, pool: dict[str, Any], session: Session
) -> None:
    xapi.handlers["host_metrics.get_all_records"] = lambda: xapi.fail(
        "MESSAGE_METHOD_UNKNOWN", "host_metrics"
    )
    xapi.say("VDI.get_nbd_info", [_info("10.1.0.1")])
    assert [e.host_name for e in nbd_endpoints(session, VDI, "web root")] == ["a"]


def test_a_purpose_that_is_just_being_changed_is_waited_for_once(
    xapi: Any, pool: dict[str, Any], session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workers.xenapi.endpoints.PROPAGATION_SECONDS", 5.0)
    pauses: list[float] = []

    def sleep(seconds: float) -> None:
        pauses.append(seconds)
        pool["network"]["OpaqueRef:backup"]["purpose"] = ["nbd"]

    monkeypatch.setattr("workers.xenapi.endpoints.time.sleep", sleep)
    _drop_purpose(pool)
    xapi.say("VDI.get_nbd_info", [], [_info("10.1.0.1")])
    assert [e.host_name for e in nbd_endpoints(session, VDI, "web root")] == ["a"]
    assert len(pauses) == 1

    monkeypatch.setattr("workers.xenapi.endpoints.PROPAGATION_SECONDS", 0.05)
    monkeypatch.setattr("workers.xenapi.endpoints.time.sleep", lambda _: pauses.append(_))
    _mix_purposes(pool)
    xapi.handlers["VDI.get_nbd_info"] = lambda _: [_info("10.1.0.1")]
    _refused(session)
    waited = len(pauses)
    assert waited > 1
    _refused(session)
    assert len(pauses) == waited, "the next disk is not kept waiting for what did not come"


def test_a_session_that_ends_meanwhile_never_leaves_stale_export_names(
    xapi: Any, pool: dict[str, Any], session: Session
) -> None:
    [old] = xapi.sessions

    def networks() -> Any:
        if old in xapi.sessions:
            xapi.sessions.clear()
            return xapi.fail("SESSION_INVALID", old)
        return pool["network"]

    xapi.handlers["network.get_all_records"] = networks
    xapi.handlers["VDI.get_nbd_info"] = lambda _: [
        {**_info("10.1.0.1"), "exportname": f"/x?session_id={next(iter(xapi.sessions))}"}
    ]
    [found] = nbd_endpoints(session, VDI, "web root")
    assert xapi.sessions
    assert found.export_name == f"/x?session_id={next(iter(xapi.sessions))}"


def test_other_failures_pass_through(xapi: Any, pool: dict[str, Any], session: Session) -> None:
    xapi.say("VDI.get_nbd_info", xapi.fail("HANDLE_INVALID", "VDI", VDI))
    with pytest.raises(XapiFailure, match="the object is gone"):
        nbd_endpoints(session, VDI, "web root")


@pytest.mark.parametrize(
    "answer",
    [
        "",
        {"a": "b"},
        ["text"],
        [{"address": "10.1.0.1"}],
        [_info("10.1.0.1", port="x")],
        [_info("10.1.0.1", port="65536")],
    ],
)
def test_an_odd_answer(xapi: Any, pool: dict[str, Any], session: Session, answer: Any) -> None:
    xapi.say("VDI.get_nbd_info", answer)
    with pytest.raises(BadAnswer, match="web root"):
        nbd_endpoints(session, VDI, "web root")


def test_a_pool_that_is_ready_is_explained(pool: dict[str, Any], session: Session) -> None:
    found = explain_pool_nbd(session)
    assert [(n.name, n.purpose) for n in found.networks] == [("backup", "nbd")]
    assert [(h.name, h.live, h.addresses) for h in found.hosts] == [
        ("a", True, ("10.1.0.1",)),
        ("b", True, ("10.1.0.2",)),
    ]
    assert found.problems == ()
    assert not found.mixed


@pytest.mark.parametrize(
    ("change", "problems"),
    [
        (_drop_purpose, ["no network of pool lab has an NBD purpose"]),
        (_mix_purposes, ["remove one of the two"]),
        (_unplug_pifs, ["host a has no plugged PIF", "host b has no plugged PIF"]),
        (_lose_hosts_with_storage, ["host b is offline"]),
    ],
)
def test_what_is_missing_is_explained(
    pool: dict[str, Any], session: Session, change: Any, problems: list[str]
) -> None:
    change(pool)
    found = explain_pool_nbd(session)
    assert len(found.problems) == len(problems)
    for said, expected in zip(found.problems, problems, strict=True):
        assert expected in said
    assert found.mixed is (change is _mix_purposes)
