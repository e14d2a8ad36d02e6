"""Who is granted a slot next: fairness over disks, idle processes, choice of the host, back-off."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.fleet_clock import Fleet, disk_work
from workers.fleet import DiskWork, Outcome, Timing, Verdict

TIMING = Timing()


@pytest.mark.parametrize(
    ("processes", "expected"),
    [(0, 0), (1, 1), (2, 2), (9, 9), (10, 11), (16, 17)],
    ids=lambda value: str(value),
)
def test_grants_follow_the_idle_processes(fleet: Fleet, processes: int, expected: int) -> None:
    hosts = {f"h{i}": 16 for i in range(20)}
    disks = [disk_work(f"d{i:02}", 9, hosts=tuple(hosts)) for i in range(40)]
    fleet.start(*disks, caps=hosts, processes=processes)
    assert len(fleet.ledger.admit(100)) == expected
    assert fleet.ledger.admit(100) == []


def test_busy_draining_and_silent_processes_get_no_grants(fleet: Fleet) -> None:
    fleet.start(*(disk_work(f"d{i}", 9) for i in range(9)), processes=2)
    held = fleet.hold()
    assert [(node.name, node.processes, node.busy) for node in fleet.ledger.nodes()] == [("node", 2, 1)]
    (granted,) = fleet.ledger.admit()
    fleet.ledger.claim(granted, "node/2")
    assert fleet.ledger.admit() == []
    fleet.ledger.node_alive("second", 1)
    fleet.ledger.node_drain("second")
    fleet.ledger.opened(granted)
    assert fleet.ledger.admit() == []
    fleet.ledger.node_gone("second")
    fleet.ledger.node_alive("second", 1)
    assert len(fleet.ledger.admit()) == 1
    fleet.clock.advance(TIMING.node)
    fleet.ledger.renew([held, granted])
    assert fleet.ledger.sweep().nodes == 1  # the other one still holds slots
    assert fleet.ledger.nodes() == []
    fleet.ledger.release(held, Outcome.CLEAN)
    assert fleet.ledger.admit() == []


def test_the_limit_holds(fleet: Fleet) -> None:
    hosts = {f"h{i}": 16 for i in range(4)}
    fleet.start(*(disk_work(f"d{i}", 9, hosts=tuple(hosts)) for i in range(9)), caps=hosts)
    assert len(fleet.ledger.admit(3)) == 3


def test_every_disk_gets_a_stream_before_any_gets_a_second(fleet: Fleet) -> None:
    fleet.start(disk_work("big", 1000), disk_work("small", 9), disk_work("tiny", 1))
    order = []
    for _ in range(6):
        grant = fleet.hold()
        order.append(grant.disk)
        fleet.ledger.take(grant)
    assert sorted(order[:3]) == ["big", "small", "tiny"]
    assert Counter(order[3:]) == {"big": 2, "small": 1}


@pytest.mark.parametrize(("batches", "streams"), [(1, 1), (7, 1), (8, 2), (11, 2), (12, 3), (100, 6)])
def test_further_streams_need_batches_for_each(fleet: Fleet, batches: int, streams: int) -> None:
    fleet.start(disk_work("d1", batches), processes=6)
    granted = 0
    while grants := fleet.ledger.admit():
        granted += len(grants)
        for grant in grants:
            fleet.ledger.claim(grant, "node/1")
            fleet.ledger.opened(grant)
    assert granted == streams


def test_batches_are_shared_by_weight(fleet: Fleet) -> None:
    """Two disks, one process: turns of 64 batches; the disk of weight 3 gets three quarters."""
    fleet.start(disk_work("light", 2000), disk_work("heavy", 2000, weight=3), processes=1)
    for _ in range(20):
        grant = fleet.hold()
        following = fleet.ledger.take(grant)
        while following.verdict is Verdict.CONTINUE:
            assert following.batch is not None
            fleet.clock.advance(0.1)
            following = fleet.ledger.commit(grant, following.batch, 1, 1)
        assert following.verdict is Verdict.YIELD
        fleet.ledger.release(grant, Outcome.CLEAN)
        fleet.clock.advance(TIMING.linger)
        fleet.ledger.node_alive("node", 1)
        fleet.ledger.sweep()
    done = {disk: fleet.disk(disk).done for disk in ("light", "heavy")}
    assert 2.5 < done["heavy"] / done["light"] < 3.5


def test_a_newcomer_does_not_wait_for_the_past_of_the_others(fleet: Fleet) -> None:
    fleet.start(disk_work("old", 500), processes=1)
    grant = fleet.hold()
    following = fleet.ledger.take(grant)
    for _ in range(100):
        assert following.batch is not None
        following = fleet.ledger.commit(grant, following.batch, 1, 1)
    fleet.ledger.add_vms("run", {"vm2": b""})
    fleet.ledger.start_vm("run", "vm2", [disk_work("new", 500, vm="vm2")])
    turns = []
    for _ in range(4):
        fleet.ledger.release(grant, Outcome.CLEAN)
        fleet.clock.advance(TIMING.linger)
        fleet.ledger.node_alive("node", 1)
        fleet.ledger.sweep()
        grant = fleet.hold()
        turns.append(grant.disk)
        following = fleet.ledger.take(grant)
        while following.verdict is Verdict.CONTINUE:
            assert following.batch is not None
            fleet.clock.advance(0.1)
            following = fleet.ledger.commit(grant, following.batch, 1, 1)
    assert Counter(turns) == {"old": 2, "new": 2}


def test_the_host_with_most_free_slots_goes_first(fleet: Fleet) -> None:
    fleet.start(*(disk_work(f"d{i}", 99, hosts=("h1", "h2")) for i in range(9)), caps={"h1": 2, "h2": 4})
    assert [fleet.hold().host for _ in range(6)] == ["h2", "h2", "h1", "h2", "h1", "h2"]


def test_only_candidate_hosts_of_the_disks_own_pool_are_used(fleet: Fleet) -> None:
    fleet.start(disk_work("d1", 9, hosts=("h1", "elsewhere")), caps={"h1": 1, "h2": 16})
    fleet.ledger.set_host("other pool", "elsewhere", 16)
    grant = fleet.hold()
    assert (grant.pool, grant.host) == ("lab", "h1")
    assert fleet.ledger.admit() == []


def test_a_failed_stream_goes_to_another_host_after_a_pause(fleet: Fleet) -> None:
    fleet.start(disk_work("d1", 9, hosts=("h1", "h2")), caps={"h1": 16, "h2": 1})
    grant = fleet.hold()
    assert grant.host == "h1"
    fleet.ledger.release(grant, Outcome.FAILED, "connection lost")
    assert fleet.disk("d1").error == "connection lost"
    fleet.clock.advance(TIMING.retry_first - 0.001)
    assert fleet.ledger.admit() == []
    fleet.clock.advance(0.001)
    assert fleet.hold().host == "h2"


def test_a_disk_fails_after_as_many_failures_in_a_row_as_it_may_have(fleet: Fleet) -> None:
    fleet.start(disk_work("d1", 90))
    for attempt in range(1, DiskWork.attempts + 1):
        grant = fleet.hold()
        fleet.ledger.release(grant, Outcome.FAILED, f"failure {attempt}")
        assert fleet.disk("d1").attempts == attempt
        fleet.clock.advance(TIMING.retry_longest)
        fleet.ledger.node_alive("node", 8)
    assert (fleet.disk("d1").state, fleet.disk("d1").error) == ("failed", "failure 5")
    assert fleet.ledger.admit() == []


def test_a_committed_batch_forgives_earlier_failures(fleet: Fleet) -> None:
    fleet.start(disk_work("d1", 90))
    for _ in range(DiskWork.attempts * 2):
        grant = fleet.hold()
        batch = fleet.ledger.take(grant).batch
        assert batch is not None
        fleet.ledger.commit(grant, batch, 1, 1)
        fleet.ledger.release(grant, Outcome.FAILED, "connection lost")
        fleet.clock.advance(TIMING.retry_longest)
        fleet.ledger.node_alive("node", 8)
        fleet.ledger.sweep()
    assert fleet.disk("d1").state == "streaming"


def test_streams_that_fall_together_are_one_failure(fleet: Fleet) -> None:
    fleet.start(disk_work("d1", 900))
    grants = [fleet.hold() for _ in range(6)]
    fleet.clock.advance(1)
    for grant in grants:
        fleet.ledger.release(grant, Outcome.FAILED, "the host is gone")
    assert (fleet.disk("d1").state, fleet.disk("d1").attempts) == ("streaming", 1)


def test_workers_that_die_of_a_disk_fail_it_in_the_end(fleet: Fleet) -> None:
    fleet.start(disk_work("d1", 9))
    for _ in range(DiskWork.attempts):
        fleet.hold()
        fleet.clock.advance(TIMING.lease)
        fleet.ledger.sweep()
        fleet.clock.advance(TIMING.retry_longest)
        fleet.ledger.sweep()
        fleet.ledger.node_alive("node", 8)
    assert (fleet.disk("d1").state, fleet.disk("d1").error) == ("failed", "its worker stopped answering")
