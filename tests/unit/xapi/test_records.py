"""Records of a simulated pool: gone ones, and a XAPI that cannot choose them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from infra.simulator import DiskSpec, PoolSpec, SimulatedPool, Timing, VmSpec
from workers.settings import PoolSettings
from workers.xenapi import (
    NULL_REF,
    Session,
    XapiFailure,
    is_gone,
    is_unknown_call,
    record_or_none,
    records_where,
    ref_or_none,
)

SPEC = PoolSpec(
    hosts=2,
    vms=(VmSpec("db", (DiskSpec(1 << 20, "root"), DiskSpec(1 << 20, "data"))),),
    timing=Timing(login_failure_delay=0.1),
)


@pytest.fixture(scope="module")
def _pool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimulatedPool]:
    with SimulatedPool.start(SPEC, tmp_path_factory.mktemp("pool")) as pool:
        yield pool


@pytest.fixture
def pool(_pool: SimulatedPool) -> Iterator[SimulatedPool]:
    yield _pool
    _pool.clear_faults()


@pytest.fixture
def session(pool: SimulatedPool) -> Iterator[Session]:
    values = {
        "url": pool.url,
        "username": "root",
        "password_file": pool.password_file,
        "ca_file": pool.ca_file,
        "timeout": 10,
    }
    with Session.login("lab", PoolSettings.model_validate(values)) as session:
        yield session


def test_an_object_by_uuid_and_by_reference_also_when_it_is_gone(
    pool: SimulatedPool, session: Session
) -> None:
    uuid = pool.vms()[0]["disks"][0]["vdi"]
    live = ref_or_none(session, "VDI", uuid)
    assert live is not None
    snapshot = session.call_async("VDI.snapshot", live)
    record = record_or_none(session, "VDI", snapshot)
    assert record is not None
    assert record["snapshot_of"] == live
    session.call_async("VDI.destroy", snapshot)
    assert record_or_none(session, "VDI", snapshot) is None
    assert ref_or_none(session, "VDI", record["uuid"]) is None
    assert record_or_none(session, "VDI", NULL_REF) is None


@pytest.mark.parametrize("lacking", [False, True])
def test_records_with_a_flag_also_from_a_pool_that_cannot_choose_them(
    pool: SimulatedPool, session: Session, lacking: bool
) -> None:
    if lacking:
        pool.add_fault(
            xapi="VM.get_all_records_where", failure=["MESSAGE_METHOD_UNKNOWN", "get_all_records_where"]
        )
    found = records_where(session, "VM", "is_control_domain")
    assert len(found) == len(pool.hosts)
    assert all(record["is_control_domain"] for record in found.values())
    assert records_where(session, "VDI", "is_a_snapshot") == {}


def test_another_failure_is_neither_gone_nor_unknown(pool: SimulatedPool, session: Session) -> None:
    refused = ["RBAC_PERMISSION_DENIED", "read", "no"]
    for method in ("VDI.get_record", "VDI.get_by_uuid", "VDI.get_all_records_where"):
        pool.add_fault(xapi=method, failure=refused, count=1)
    for ask in (
        lambda: record_or_none(session, "VDI", "ref"),
        lambda: ref_or_none(session, "VDI", "uuid"),
        lambda: records_where(session, "VDI", "is_a_snapshot"),
    ):
        with pytest.raises(XapiFailure) as raised:
            ask()
        assert not is_gone(raised.value)
        assert not is_unknown_call(raised.value)
    assert not is_gone(ValueError("HANDLE_INVALID"))
