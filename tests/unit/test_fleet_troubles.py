"""What troubles cost: a disk's attempts, back-off and patience; a host's circuit; a node's processes."""

from __future__ import annotations

import dataclasses

import pytest

from tests.fleet_clock import Fleet, disk_work
from workers.fleet import Grant, Limits, Outcome, Timing, Verdict

TIMING = Timing()


def pass_time(fleet: Fleet, seconds: float) -> None:
    fleet.clock.advance(seconds)
    fleet.ledger.node_alive("node", 8)
    fleet.ledger.sweep()


def claim(fleet: Fleet, limit: int = 1) -> Grant:
    (grant,) = fleet.ledger.admit(limit)
    assert fleet.ledger.claim(grant, "node/1") is not None
    return grant


def commit_one(fleet: Fleet, grant: Grant) -> None:
    batch = fleet.ledger.take(grant).batch
    assert batch is not None
    fleet.ledger.commit(grant, batch, 1, 1)


HOSTS = tuple(f"h{i}" for i in range(9))


@pytest.mark.parametrize(
    ("outcome", "pauses", "attempts"),
    [
        (Outcome.FAILED, [2, 4, 8, 16], [1, 2, 3, 4]),
        (Outcome.LOST, [0, 2, 4, 8], [1, 2, 3, 4]),
        (Outcome.STORE_AWAY, [2, 4, 8, 16, 32, 60, 60], [0] * 7),
        (Outcome.BUSY, [0, 0, 0, 0, 0], [0] * 5),
    ],
)
def test_back_off_and_attempts(
    fleet: Fleet, outcome: Outcome, pauses: list[float], attempts: list[int]
) -> None:
    fleet.start(disk_work("d1", 99, hosts=HOSTS), caps=dict.fromkeys(HOSTS, 16))
    (grant,) = fleet.ledger.admit()
    seen = []
    for _ in pauses:
        assert fleet.ledger.claim(grant, "node/1") is not None
        fleet.clock.advance(0.001)
        if outcome is Outcome.LOST:
            assert fleet.ledger.opened(grant)
        fleet.ledger.release(grant, outcome, "why")
        before = fleet.clock.now
        while not (grants := fleet.ledger.admit()):
            fleet.clock.advance(0.5)
            fleet.ledger.node_alive("node", 8)
        (grant,) = grants
        seen.append((fleet.clock.now - before, fleet.disk("d1").attempts))
    assert seen == [(pytest.approx(pause), count) for pause, count in zip(pauses, attempts, strict=True)]
    assert fleet.disk("d1").error == "why"
    assert fleet.ledger.counters()[outcome.lower()] == len(pauses)


def test_an_open_whose_stream_died_is_still_one_in_progress(fleet: Fleet) -> None:
    """The host goes on plugging the disk for it."""
    fleet.start(disk_work("d1", 99, hosts=HOSTS), caps=dict.fromkeys(HOSTS, 16))
    grant = claim(fleet)
    fleet.ledger.release(grant, Outcome.LOST, "killed")
    pass_time(fleet, TIMING.abandoned_open - 0.01)
    assert fleet.ledger.admit() == []
    assert fleet.states(grant.host)[0] == "OPENING"
    pass_time(fleet, 0.02)
    assert fleet.states(grant.host)[0] == "QUARANTINE"
    assert len(fleet.ledger.admit()) == 1
    assert fleet.disk("d1").attempts == 1


@pytest.mark.parametrize("outcome", [Outcome.LOST, Outcome.STORE_AWAY])
def test_what_is_not_the_hosts_fault_leaves_it_open(fleet: Fleet, outcome: Outcome) -> None:
    fleet.start(disk_work("d1", 99))
    for _ in range(4):
        grant = claim(fleet)
        if outcome is Outcome.LOST:
            assert fleet.ledger.opened(grant)
        fleet.ledger.release(grant, outcome, "why")
        pass_time(fleet, TIMING.retry_longest)
    assert fleet.ledger.hosts()[0].circuit_left == 0
    claim(fleet)


def test_a_disk_has_the_attempts_that_its_policy_gives_it(fleet: Fleet) -> None:
    fleet.start(
        dataclasses.replace(disk_work("d1", 99, hosts=HOSTS), attempts=2), caps=dict.fromkeys(HOSTS, 9)
    )
    for _ in range(2):
        grant = fleet.hold()
        fleet.ledger.release(grant, Outcome.FAILED, "connection lost")
        pass_time(fleet, TIMING.retry_longest)
    assert (fleet.disk("d1").state, fleet.disk("d1").error) == ("failed", "connection lost")


@pytest.mark.parametrize("outcome", [Outcome.BUSY, Outcome.STORE_AWAY])
def test_a_disk_is_given_up_after_so_long_a_time_of_trouble(fleet: Fleet, outcome: Outcome) -> None:
    work = dataclasses.replace(disk_work("d1", 99, hosts=HOSTS), give_up_after=600.0)
    fleet.start(work, caps=dict.fromkeys(HOSTS, 16))
    pass_time(fleet, 900)  # nobody has looked at it: that is no trouble
    fleet.ledger.release(claim(fleet), outcome, "no luck")
    pass_time(fleet, 599)
    assert fleet.disk("d1").state == "streaming"
    pass_time(fleet, 1)
    assert fleet.disk("d1").state == "failed"
    assert fleet.disk("d1").error == "given up after 600 s of trouble: no luck"
    assert fleet.ledger.counters()["given_up"] == 1


def test_a_committed_batch_ends_the_trouble(fleet: Fleet) -> None:
    work = dataclasses.replace(disk_work("d1", 99, hosts=HOSTS), give_up_after=600.0)
    fleet.start(work, caps=dict.fromkeys(HOSTS, 16))
    fleet.ledger.release(claim(fleet), Outcome.STORE_AWAY, "no luck")
    pass_time(fleet, 300)
    grant = fleet.hold()
    commit_one(fleet, grant)
    fleet.ledger.release(grant, Outcome.CLEAN)
    pass_time(fleet, 900)
    assert fleet.disk("d1").state == "streaming"
    fleet.ledger.release(claim(fleet), Outcome.STORE_AWAY, "no luck")
    pass_time(fleet, 599)
    assert fleet.disk("d1").state == "streaming"


def test_disks_that_nobody_can_touch_are_given_up_too(fleet: Fleet) -> None:
    """One disk found out that the only host is a black hole; the others wait behind it."""
    first = dataclasses.replace(disk_work("d0", 99), attempts=9, give_up_after=3600.0)
    others = [dataclasses.replace(disk_work(f"d{i}", 99), give_up_after=600.0) for i in (1, 2)]
    elsewhere = dataclasses.replace(disk_work("d3", 99, hosts=("h2",)), give_up_after=600.0)
    fleet.start(first, *others, elsewhere, caps={"h1": 16, "h2": 16})
    well = next(grant for grant in fleet.ledger.admit() if grant.host == "h2")
    fleet.ledger.claim(well, "node/2")
    fleet.ledger.opened(well)
    for _ in range(30):
        fleet.ledger.renew([well])
        for grant in fleet.ledger.admit():
            if grant.host == "h1":
                fleet.ledger.claim(grant, "node/1")
                fleet.clock.advance(0.001)
                fleet.ledger.release(grant, Outcome.FAILED, "does not answer")
        pass_time(fleet, 25)
    states = {disk.disk: disk.state for disk in fleet.ledger.progress("run").disks}
    assert (states["d1"], states["d2"], states["d3"]) == ("failed", "failed", "streaming")
    assert "of trouble: " in (fleet.disk("d2").error or "")


def fail_an_open(fleet: Fleet, limit: int = 9) -> None:
    grant = claim(fleet, limit)
    fleet.clock.advance(0.001)
    fleet.ledger.release(grant, Outcome.FAILED, "does not answer")


def circuit(fleet: Fleet) -> float:
    return fleet.ledger.hosts()[0].circuit_left


def test_a_hosts_circuit_opens_after_three_failures_and_closes_with_a_success(fleet: Fleet) -> None:
    fleet.start(*(disk_work(f"d{i}", 99) for i in range(9)))
    for _ in range(Limits().failures_to_close):
        assert circuit(fleet) == 0
        fail_an_open(fleet)
    for expected in (TIMING.circuit, TIMING.circuit * 2, TIMING.circuit * 4, TIMING.circuit_longest):
        assert circuit(fleet) == expected
        assert fleet.ledger.admit() == []
        pass_time(fleet, expected)
        fail_an_open(fleet)  # exactly one is let through
    pass_time(fleet, TIMING.circuit_longest)
    probe = claim(fleet, 9)
    assert fleet.ledger.admit() == []
    fleet.ledger.opened(probe)
    assert len(fleet.ledger.admit()) == 2
    assert circuit(fleet) == 0


def test_a_host_that_never_answered_or_failed_last_gets_one_open_at_a_time(fleet: Fleet) -> None:
    fleet.start(*(disk_work(f"d{i}", 99) for i in range(9)))
    first = claim(fleet, 9)
    assert fleet.ledger.admit() == []
    fleet.ledger.opened(first)
    second, third = fleet.ledger.admit()
    fleet.ledger.claim(second, "node/1")
    fleet.ledger.claim(third, "node/1")
    fleet.clock.advance(0.001)
    fleet.ledger.release(second, Outcome.FAILED, "does not answer")
    fleet.ledger.opened(third)
    assert len(fleet.ledger.admit()) == 2  # the third open went through
    fleet.clock.advance(0.001)
    fleet.ledger.release(first, Outcome.FAILED, "cut")
    assert fleet.ledger.admit() == []
    commit_one(fleet, third)


def test_a_batch_from_a_host_forgives_it(fleet: Fleet) -> None:
    fleet.start(*(disk_work(f"d{i}", 99) for i in range(9)))
    held = fleet.hold()
    batch = fleet.ledger.take(held).batch
    for _ in range(Limits().failures_to_close * 2):
        fail_an_open(fleet, 1)
        assert batch is not None
        batch = fleet.ledger.commit(held, batch, 1, 1).batch
    assert circuit(fleet) == 0


def test_streams_that_fall_with_a_host_are_one_failure_of_it(fleet: Fleet) -> None:
    fleet.start(*(disk_work(f"d{i}", 99) for i in range(9)))
    grants = [fleet.hold() for _ in range(6)]
    fleet.clock.advance(1)
    for grant in grants:
        fleet.ledger.release(grant, Outcome.FAILED, "the host is gone")
    assert circuit(fleet) == 0


def test_a_process_that_waits_for_a_slow_host_is_replaced_by_a_spare_one(fleet: Fleet) -> None:
    hosts = {f"h{i}": 16 for i in range(8)}
    fleet.start(*(disk_work(f"d{i}", 99, hosts=(host,)) for i, host in enumerate(hosts)), caps=hosts)
    fleet.ledger.node_alive("node", 2, spare=1)
    waiting = fleet.ledger.admit()
    assert len(waiting) == 2
    for grant in waiting:
        fleet.ledger.claim(grant, "node/1")
    fleet.clock.advance(TIMING.slow_open - 0.001)
    assert fleet.ledger.admit() == []
    fleet.clock.advance(0.001)
    (one,) = fleet.ledger.admit()  # two are slow, one is to spare
    fleet.ledger.claim(one, "node/1")
    assert fleet.ledger.admit() == []
    fleet.ledger.opened(waiting[0])
    fleet.ledger.opened(waiting[1])
    fleet.ledger.release(one, Outcome.CLEAN)
    assert fleet.ledger.admit() == []  # back to two streams


def test_a_resumed_disk_reads_what_is_missing(fleet: Fleet) -> None:
    work = dataclasses.replace(
        disk_work("d1", 20), done=frozenset({0, 1, 2, 7, 9, 19}), read_bytes=60, stored_bytes=30
    )
    fleet.start(work, dataclasses.replace(disk_work("d2", 2), done=frozenset({0, 1})))
    assert (fleet.disk("d2").state, fleet.disk("d2").done) == ("complete", 2)
    assert (fleet.disk("d1").done, fleet.disk("d1").read_bytes, fleet.disk("d1").stored_bytes) == (6, 60, 30)
    grant = fleet.hold()
    following = fleet.ledger.take(grant)
    taken = []
    while following.batch is not None:
        taken.append(following.batch)
        following = fleet.ledger.commit(grant, following.batch, 10, 5)
    assert following.verdict is Verdict.EMPTY
    assert taken == [batch for batch in range(20) if batch not in work.done]
    assert (fleet.disk("d1").state, fleet.disk("d1").read_bytes) == ("complete", 200)


def test_the_oldest_waiting_disk_is_known(fleet: Fleet) -> None:
    fleet.start(disk_work("d1", 9), disk_work("d2", 9))
    fleet.clock.advance(7)
    waiting = fleet.ledger.waiting()
    assert (waiting.disks, waiting.oldest) == (2, 7)
    grants = [fleet.hold(), fleet.hold()]
    assert (fleet.ledger.waiting().disks, fleet.ledger.waiting().oldest) == (0, 0)
    fleet.ledger.release(grants[0], Outcome.FAILED, "cut")
    fleet.clock.advance(1)
    waiting = fleet.ledger.waiting()
    assert (waiting.disks, waiting.oldest) == (1, 1)


def test_what_happened_is_counted(fleet: Fleet) -> None:
    fleet.start(disk_work("d1", 3))
    grant = fleet.hold()
    commit_one(fleet, grant)
    fleet.ledger.release(grant, Outcome.CLEAN)
    fleet.ledger.take(grant)
    fleet.ledger.admit()
    pass_time(fleet, TIMING.grant)
    assert fleet.ledger.counters() == {
        **dict.fromkeys(("claims", "opens", "batches", "clean", "quarantined", "fenced", "unclaimed"), 1),
        "grants": 2,
    }
