"""The slot machine: FREE -> GRANTED -> OPENING -> HELD -> QUARANTINE -> FREE, on injected time."""

from __future__ import annotations

import dataclasses

import pytest

from tests.fleet_clock import Fleet, disk_work
from workers.fleet import Limits, Outcome, Timing, Verdict

TIMING = Timing()


def test_a_slot_goes_once_around(fleet: Fleet) -> None:
    fleet.start(disk_work("d1", 3), caps={"h1": 2})
    (grant,) = fleet.ledger.admit()
    assert fleet.states() == ["GRANTED", "FREE"]
    assert fleet.ledger.claim(grant, "node/1") == dataclasses.replace(disk_work("d1", 3), plan=b"")
    assert fleet.states() == ["OPENING", "FREE"]
    assert fleet.ledger.opened(grant)
    (held, _) = fleet.ledger.slots("lab", "h1")
    assert (held.state, held.owner, held.disk, held.run) == ("HELD", "node/1", "d1", "run")
    assert (held.fence, held.expires_in) == (grant.fence, TIMING.lease)
    fleet.ledger.release(grant, Outcome.CLEAN)
    assert fleet.states() == ["QUARANTINE", "FREE"]
    fleet.clock.advance(TIMING.linger - 0.001)
    assert fleet.ledger.sweep().freed == 0
    fleet.clock.advance(0.001)
    assert fleet.ledger.sweep().freed == 1
    assert fleet.states() == ["FREE", "FREE"]


def test_a_grant_is_claimed_once(fleet: Fleet) -> None:
    fleet.start(disk_work("d1", 3))
    (grant,) = fleet.ledger.admit()
    assert fleet.ledger.claim(grant, "node/1") is not None
    assert fleet.ledger.claim(grant, "node/1") is None
    assert fleet.ledger.claim(grant, "other/1") is None
    assert fleet.ledger.slots("lab", "h1")[0].owner == "node/1"


def test_a_grant_that_nobody_claims_is_given_again_with_a_higher_fence(fleet: Fleet) -> None:
    fleet.start(disk_work("d1", 3))
    (late,) = fleet.ledger.admit()
    fleet.clock.advance(TIMING.grant)
    assert fleet.ledger.sweep().unclaimed == 1
    fleet.ledger.node_alive("node", 8)
    (again,) = fleet.ledger.admit()
    assert again.slot == late.slot
    assert again.fence > late.fence
    assert fleet.ledger.claim(late, "node/1") is None
    assert fleet.ledger.claim(again, "node/1") is not None


@pytest.mark.parametrize(
    "change", [{"fence": 1}, {"slot": 5}, {"disk": "d2"}, {"run": "other"}, {"host": "h2"}, {"pool": "other"}]
)
def test_a_grant_that_is_not_quite_the_one_given_does_nothing(
    fleet: Fleet, change: dict[str, object]
) -> None:
    fleet.start(disk_work("d1", 3))
    (grant,) = fleet.ledger.admit()
    forged = dataclasses.replace(grant, **change)  # type: ignore[arg-type]
    assert fleet.ledger.claim(forged, "node/1") is None
    assert fleet.ledger.claim(grant, "node/1") is not None
    assert fleet.ledger.take(forged).verdict is Verdict.FENCE
    assert not fleet.ledger.opened(forged)
    assert fleet.ledger.renew([forged, grant]) == [False, True]
    fleet.ledger.release(forged, Outcome.FATAL, "not mine")
    assert fleet.states()[grant.slot] == "OPENING"
    assert fleet.disk("d1").state == "streaming"


def test_a_claim_of_a_disk_with_nothing_left_opens_nothing(fleet: Fleet) -> None:
    fleet.start(disk_work("d1", 9))
    first = fleet.hold()
    (second,) = fleet.ledger.admit()
    fleet.ledger.stop("run", "the window is over")
    assert fleet.ledger.claim(second, "node/2") is None
    assert fleet.states()[second.slot] == "FREE"
    assert fleet.ledger.take(first).verdict is Verdict.EMPTY


def test_a_lease_lives_as_long_as_it_is_renewed(fleet: Fleet) -> None:
    fleet.start(disk_work("d1", 3))
    grant = fleet.hold()
    for _ in range(20):
        fleet.clock.advance(TIMING.lease - 1)
        assert fleet.ledger.renew([grant]) == [True]
        assert fleet.ledger.sweep().lost == 0
    assert fleet.ledger.renew([]) == []


def test_a_lost_holder_gives_its_batches_back_and_its_slot_rests(fleet: Fleet) -> None:
    fleet.start(disk_work("d1", 5), caps={"h1": 1})
    grant = fleet.hold()
    assert [fleet.ledger.take(grant).batch for _ in range(3)] == [0, 1, 2]
    fleet.ledger.commit(grant, 1, 10, 5)
    fleet.clock.advance(TIMING.lease)
    assert fleet.ledger.sweep().lost == 1
    assert fleet.states() == ["QUARANTINE"]
    assert fleet.ledger.commit(grant, 0, 10, 5).verdict is Verdict.FENCE
    assert fleet.ledger.renew([grant]) == [False]
    fleet.clock.advance(TIMING.quarantine - 1)
    fleet.ledger.node_alive("node", 8)
    assert fleet.ledger.admit() == []
    fleet.clock.advance(1)
    assert fleet.ledger.sweep().freed == 1
    again = fleet.hold()
    taken = [fleet.ledger.take(again).batch]
    while (following := fleet.ledger.commit(again, taken[-1], 10, 5)).batch is not None:  # type: ignore[arg-type]
        taken.append(following.batch)
    assert taken == [0, 2, 3, 4]
    assert fleet.disk("d1").state == "complete"
    assert (fleet.disk("d1").done, fleet.disk("d1").read_bytes, fleet.disk("d1").stored_bytes) == (5, 50, 25)


def test_one_open_a_disk_and_two_a_host_at_once(fleet: Fleet) -> None:
    fleet.start(*(disk_work(f"d{i}", 100) for i in range(5)))
    fleet.ledger.release(fleet.hold(), Outcome.CLEAN)  # the host answers
    grants = fleet.ledger.admit()
    assert [grant.disk for grant in grants] == ["d0", "d1"]
    assert fleet.ledger.admit() == []
    for grant in grants:
        fleet.ledger.claim(grant, "node/1")
    assert fleet.ledger.admit() == []
    fleet.ledger.opened(grants[0])
    assert [grant.disk for grant in fleet.ledger.admit()] == ["d2"]


def test_never_more_than_the_cap(fleet: Fleet) -> None:
    fleet.start(*(disk_work(f"d{i}", 100) for i in range(9)), caps={"h1": 3}, processes=50)
    held = [fleet.hold() for _ in range(3)]
    assert sorted(grant.slot for grant in held) == [0, 1, 2]
    assert fleet.ledger.admit() == []
    fleet.ledger.release(held[1], Outcome.CLEAN)
    assert fleet.ledger.admit() == []
    fleet.clock.advance(TIMING.linger)
    fleet.ledger.sweep()
    assert [grant.slot for grant in fleet.ledger.admit()] == [1]


def test_a_cap_configured_down_holds_for_new_grants(fleet: Fleet) -> None:
    fleet.start(*(disk_work(f"d{i}", 100) for i in range(9)), caps={"h1": 4}, processes=50)
    held = [fleet.hold() for _ in range(4)]
    fleet.ledger.set_host("lab", "h1", 2)
    for grant in held[:2]:
        fleet.ledger.release(grant, Outcome.CLEAN)
    fleet.clock.advance(TIMING.linger)
    fleet.ledger.sweep()
    assert fleet.states() == ["FREE", "FREE", "HELD", "HELD"]
    assert fleet.ledger.admit() == []
    fleet.ledger.release(held[3], Outcome.CLEAN)
    fleet.clock.advance(TIMING.linger)
    fleet.ledger.sweep()
    assert len(fleet.ledger.admit()) == 1


def test_a_rejected_open_lowers_the_cap_and_fails_nothing(fleet: Fleet) -> None:
    fleet.start(*(disk_work(f"d{i}", 100) for i in range(9)), caps={"h1": 4}, processes=50)
    fleet.hold()
    (rejected,) = fleet.ledger.admit(1)
    fleet.ledger.claim(rejected, "node/1")
    fleet.ledger.release(rejected, Outcome.BUSY, "host h1 rejects connections")
    (host,) = fleet.ledger.hosts()
    assert (host.cap, host.lowered, host.rejects, host.circuit_left) == (4, 1, 1, 0)
    assert fleet.disk(rejected.disk).attempts == 0
    assert fleet.disk(rejected.disk).error == "host h1 rejects connections"
    assert len(fleet.ledger.admit()) == 1  # of 4: one held, one in quarantine, one lowered
    fleet.clock.advance(TIMING.cap_recovery)
    fleet.ledger.sweep()
    assert fleet.ledger.hosts()[0].lowered == 0


def test_a_cap_is_never_lowered_below_one(fleet: Fleet) -> None:
    fleet.start(*(disk_work(f"d{i}", 100) for i in range(3)), caps={"h1": 2})
    for _ in range(4):
        (grant,) = fleet.ledger.admit(1)
        fleet.ledger.claim(grant, "node/1")
        fleet.ledger.release(grant, Outcome.BUSY)
        fleet.clock.advance(TIMING.quarantine)
        fleet.ledger.sweep()
        fleet.ledger.node_alive("node", 8)
    assert fleet.ledger.hosts()[0].lowered == 1


def test_a_host_that_rejects_although_we_hold_nothing_is_left_alone_for_a_while(fleet: Fleet) -> None:
    fleet.start(disk_work("d1", 9))
    for _ in range(Limits().rejects_to_open):
        (grant,) = fleet.ledger.admit()
        fleet.ledger.claim(grant, "node/1")
        fleet.ledger.release(grant, Outcome.BUSY)
        fleet.clock.advance(TIMING.quarantine)
        fleet.ledger.node_alive("node", 8)
        fleet.ledger.sweep()
    assert fleet.ledger.hosts()[0].circuit_left == TIMING.circuit - TIMING.quarantine
    assert fleet.ledger.admit() == []
    fleet.clock.advance(TIMING.circuit - TIMING.quarantine)
    fleet.ledger.node_alive("node", 8)
    fleet.hold()
    assert fleet.ledger.hosts()[0].rejects == 0


def test_release_twice_is_once(fleet: Fleet) -> None:
    fleet.start(disk_work("d1", 9))
    grant = fleet.hold()
    fleet.ledger.release(grant, Outcome.FAILED, "connection lost")
    fleet.ledger.release(grant, Outcome.FAILED, "connection lost")
    assert fleet.disk("d1").attempts == 1
    assert fleet.disk("d1").streams == 0


@pytest.mark.parametrize(
    "unsafe",
    [
        {"cut_after": 31},
        {"barrier": 59},
        {"quarantine": 40},
        {"renew_every": 10},
        {"grant": 61},
        {"linger": 31},
    ],
)
def test_unsafe_timing_is_refused(unsafe: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="unsafe timing"):
        Timing(**unsafe)
