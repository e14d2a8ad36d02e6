"""What a count sees of a host, and that a pool which is slow, dead or forbids it holds nobody up."""

from __future__ import annotations

import logging
import queue
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from infra.simulator import DiskSpec, PoolSpec, SimulatedPool, Timing, VmSpec
from scheduler.hosts.host_count import Count, HostCounter, NotCountable
from scheduler.hosts.reconciler import Reconciler
from scheduler.pool_objects.ownership import OwnershipTag
from tests.until import until
from workers.fleet import HostToCount
from workers.fleet.timing import Timing as LedgerTiming
from workers.nbd import Deadlines, Tls, connect
from workers.settings import PoolSettings, Settings
from workers.xenapi import Session, nbd_endpoints

MiB = 1 << 20
SPEC = PoolSpec(
    hosts=2,
    vms=(VmSpec("db", (DiskSpec(1 * MiB, "root"), DiskSpec(1 * MiB, "data"))),),
    timing=Timing(login_failure_delay=0.1, slot_release_delay=0.05),
)
OURS = "5f0c0f0a-0000-4000-8000-000000000001"
DEADLINES = Deadlines(connect=5, handshake=5, read=5, close=5)
UNKNOWN = ["MESSAGE_METHOD_UNKNOWN", "get_all_records_where"]


@pytest.fixture(scope="module")
def _pool() -> Iterator[SimulatedPool]:
    with SimulatedPool.start(SPEC) as pool:
        yield pool


@pytest.fixture
def pool(_pool: SimulatedPool) -> Iterator[SimulatedPool]:
    yield _pool
    _pool.clear_faults()
    assert (_pool.leftovers()["sessions"], _pool.leftovers()["plugged_vbds"]) == (0, [])


def settings_of(pool: SimulatedPool) -> PoolSettings:
    values = {
        "url": pool.url,
        "username": "root",
        "password_file": pool.password_file,
        "ca_file": pool.ca_file,
        "timeout": 10,
    }
    return PoolSettings.model_validate(values)


@pytest.fixture
def session(pool: SimulatedPool) -> Iterator[Session]:
    with Session.login("lab", settings_of(pool)) as session:
        yield session


@pytest.fixture
def snapshots(pool: SimulatedPool, session: Session) -> Iterator[tuple[str, str]]:
    """Refs of a snapshot that is ours and of one that is not."""
    refs = []
    for disk in pool.vms()[0]["disks"]:
        refs.append(session.call_async("VDI.snapshot", session.call("VDI.get_by_uuid", disk["vdi"])))
    for ref, repository in zip(refs, (OURS, "another repository"), strict=True):
        OwnershipTag("run", repository, session.call("VDI.get_uuid", ref), "vm", "disk", "Running").write(
            session, ref
        )
    yield (refs[0], refs[1])
    for ref in refs:
        until(lambda: pool.leftovers()["plugged_vbds"] == [])
        session.call_async("VDI.destroy", ref)


class Peers:
    """Open NBD connections, as workers have them."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._stack = ExitStack()

    def open(self, host: str, vdi: str) -> None:
        endpoint = next(
            each
            for each in nbd_endpoints(self._session, vdi, "disk")
            if each.host == host and ":" not in each.address
        )
        tls = Tls("certificate", endpoint.certificate_pem, endpoint.subject)
        connection = connect(endpoint.address, endpoint.port, endpoint.export_name, tls, DEADLINES)
        self._stack.callback(connection.close)

    def close(self) -> None:
        self._stack.close()


@pytest.fixture
def peers(session: Session, snapshots: tuple[str, str]) -> Iterator[Peers]:
    peers = Peers(session)
    yield peers
    peers.close()


@pytest.mark.parametrize("lacking", [(), ("VBD.get_all_records_where", "VM.get_all_records_where")])
def test_each_connection_is_counted_on_its_host_until_the_host_let_go(
    pool: SimulatedPool,
    session: Session,
    snapshots: tuple[str, str],
    peers: Peers,
    lacking: tuple[str, ...],
) -> None:
    for method in lacking:
        pool.add_fault(xapi=method, failure=UNKNOWN, count=-1)
    first, second = (host.uuid for host in pool.hosts)
    ours, theirs = snapshots
    uuid = session.call("VDI.get_record", ours)["uuid"]
    counter = HostCounter(session, OURS)
    assert counter.count(first) == Count((), 0)
    peers.open(first, ours)
    peers.open(first, ours)
    peers.open(first, theirs)
    peers.open(second, ours)
    assert counter.count(first) == Count((uuid, uuid), 1)
    assert counter.count(second) == Count((uuid,), 0)
    peers.close()
    until(lambda: counter.count(first) == counter.count(second) == Count((), 0))


def test_a_running_vms_own_disk_in_the_control_domain_is_nobodys_connection(
    pool: SimulatedPool, session: Session, peers: Peers
) -> None:
    live = session.call("VDI.get_by_uuid", pool.vms()[0]["disks"][0]["vdi"])
    session.call("VM.hard_shutdown", session.call("VM.get_by_uuid", pool.vms()[0]["uuid"]))
    peers.open(pool.hosts[0].uuid, live)
    assert HostCounter(session, OURS).count(pool.hosts[0].uuid) == Count((), 0)


def test_what_the_pool_does_not_know_or_allow_is_not_countable(pool: SimulatedPool, session: Session) -> None:
    with pytest.raises(NotCountable, match="knows no host"):
        HostCounter(session, OURS).count("00000000-0000-5000-8000-000000000000")
    pool.add_fault(xapi="VBD.get_all_records_where", failure=["RBAC_PERMISSION_DENIED", "vbd", "no"])
    with pytest.raises(NotCountable):
        HostCounter(session, OURS).count(pool.hosts[0].uuid)


class Questions:
    """The reconciler's side of a ledger: asks what the test asks, and keeps the answers."""

    def __init__(self) -> None:
        self.timing = LedgerTiming().scaled(0.05)
        self.states: dict[str, str] = {"run": "running"}
        self.answers: queue.Queue[tuple[Any, ...]] = queue.Queue()
        self._due: list[HostToCount] = []
        self._lock = threading.Lock()

    def ask(self, pool: str, host: str, asked: int) -> None:
        with self._lock:
            self._due.append(HostToCount(pool, host, asked))

    def hosts_to_count(self) -> list[HostToCount]:
        with self._lock:
            due, self._due = self._due, []
        return due

    def counted(self, *answer: Any) -> None:
        self.answers.put(("counted", *answer))

    def uncountable(self, *answer: Any) -> None:
        self.answers.put(("uncountable", *answer))

    def run_states(self) -> dict[str, str]:
        return {**self.states}

    def answer(self) -> tuple[Any, ...]:
        return self.answers.get(timeout=20)


@pytest.fixture
def questions() -> Questions:
    return Questions()


@pytest.fixture
def start(questions: Questions) -> Iterator[Callable[..., None]]:
    with ExitStack() as stack:

        def started(**pools: PoolSettings) -> None:
            settings = Settings.model_validate({"repository": {"url": "file:///nowhere"}})
            count = Reconciler(questions, settings.model_copy(update={"pools": pools}), OURS)  # type: ignore[arg-type]
            stack.callback(count.stop)
            count.start()

        yield started


def test_a_dead_pool_holds_up_no_other_and_is_said_once(
    pool: SimulatedPool,
    questions: Questions,
    start: Callable[..., None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.WARNING)
    with socket.create_server(("127.0.0.1", 0)) as silent:  # accepts and never says a word
        port = silent.getsockname()[1]
        values = {"url": f"https://127.0.0.1:{port}", "username": "root", "password": "x", "timeout": 0.3}
        start(lab=settings_of(pool), dead=PoolSettings.model_validate(values))
        host = pool.hosts[0].uuid
        for asked in range(1, 4):
            questions.ask("dead", host, asked)
            questions.ask("elsewhere", host, asked)
            questions.ask("lab", host, asked)
            assert questions.answer() == ("counted", "lab", host, asked, (), 0)
        until(lambda: "counting the hosts of pool dead fails" in caplog.text)
        questions.ask("dead", host, 5)
        questions.ask("lab", host, 5)
        assert questions.answer() == ("counted", "lab", host, 5, (), 0)
    assert questions.answers.empty(), "of a pool that does not answer nothing is known"
    lines = [record.getMessage() for record in caplog.records]
    assert len([line for line in lines if "pool dead" in line]) == 1, lines
    assert len([line for line in lines if "pool elsewhere" in line]) == 1, lines


def test_what_is_asked_at_once_is_answered_without_a_pause_between(
    pool: SimulatedPool, questions: Questions, start: Callable[..., None]
) -> None:
    unknown = [f"00000000-0000-4000-8000-00000000000{number}" for number in range(5)]
    for host in unknown:
        questions.ask("lab", host, 1)
    start(lab=settings_of(pool))
    assert {questions.answer() for _ in unknown} == {("uncountable", "lab", host, 1) for host in unknown}


def test_a_pool_that_forbids_it_is_uncountable_and_said_once(
    pool: SimulatedPool,
    questions: Questions,
    start: Callable[..., None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.WARNING)
    pool.add_fault(xapi="VBD.get_all_records_where", failure=["RBAC_PERMISSION_DENIED", "vbd", "no"], count=2)
    start(lab=settings_of(pool))
    first, second = (host.uuid for host in pool.hosts)
    for number, host in enumerate((first, second), 1):
        questions.ask("lab", host, number)
        assert questions.answer() == ("uncountable", "lab", host, number)
    questions.ask("lab", first, 3)
    assert questions.answer() == ("counted", "lab", first, 3, (), 0)
    [line] = [record.getMessage() for record in caplog.records]
    assert "pool lab: connections cannot be counted (" in line


def test_a_session_is_kept_while_a_run_goes_on_renewed_when_lost_and_ended_with_it(
    pool: SimulatedPool, questions: Questions, start: Callable[..., None]
) -> None:
    pool.clear_log()
    start(lab=settings_of(pool))
    host = pool.hosts[0].uuid

    def count(asked: int) -> int:
        questions.ask("lab", host, asked)
        assert questions.answer() == ("counted", "lab", host, asked, (), 0)
        return int(pool.log()["calls"]["session.login_with_password"])

    assert [count(1), count(2)] == [1, 1]
    pool.end_sessions()
    assert count(3) == 2
    assert pool.leftovers()["sessions"] >= 1
    questions.states["run"] = "ended"
    until(lambda: pool.leftovers()["sessions"] == 0)
    assert count(4) == 3
    questions.states["run"] = "running"
    assert count(5) >= 3
