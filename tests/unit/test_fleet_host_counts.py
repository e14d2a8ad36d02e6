"""Slots of hosts that are counted: free when the host has let go of the connection, and not before."""

from __future__ import annotations

import pytest

from tests.fleet_clock import Fleet, disk_work
from workers.fleet import Grant, HostToCount, Outcome, Timing

TIMING = Timing()


def start(fleet: Fleet, cap: int = 2, disks: int = 5, counted: bool = True) -> None:
    fleet.start(*(disk_work(f"d{i}", 100) for i in range(disks)), processes=50, caps={"h1": cap})
    fleet.ledger.set_host("lab", "h1", cap, confirm=True)
    if counted:
        count(fleet)


def ask(fleet: Fleet) -> HostToCount:
    (due,) = fleet.ledger.hosts_to_count()
    return due


def count(fleet: Fleet, *disks: str, others: int = 0, due: HostToCount | None = None) -> None:
    """A whole count; it sees the disks' snapshots plugged."""
    due = due or ask(fleet)
    fleet.clock.advance(0.001)
    plugged = [f"snapshot-of-{disk}" for disk in disks]
    fleet.ledger.counted("lab", "h1", due.asked, plugged, others)


def end(fleet: Fleet, grant: Grant, outcome: Outcome = Outcome.CLEAN) -> None:
    """The connection ends and its slot's rest is over."""
    fleet.ledger.release(grant, outcome)
    fleet.clock.advance(TIMING.linger if outcome is Outcome.CLEAN else TIMING.quarantine)
    fleet.ledger.node_alive("node", 50)


def unaccounted(fleet: Fleet) -> int:
    (host,) = fleet.ledger.hosts()
    return host.unaccounted


def test_nothing_is_granted_on_a_host_that_was_never_counted(fleet: Fleet) -> None:
    start(fleet, counted=False)
    assert fleet.ledger.admit() == []
    (host,) = fleet.ledger.hosts()
    assert (host.counted_ago, host.effective_cap) == (None, 0)
    count(fleet)
    assert len(fleet.ledger.admit()) == 1
    assert fleet.ledger.hosts()[0].effective_cap == 2


def test_a_slot_is_free_when_a_count_begun_after_its_rest_does_not_see_it(fleet: Fleet) -> None:
    start(fleet, cap=1)
    grant = fleet.hold()
    fleet.ledger.release(grant, Outcome.CLEAN)
    fleet.clock.advance(TIMING.linger - 0.002)
    assert fleet.ledger.hosts_to_count() == []
    fleet.clock.advance(0.002)
    assert fleet.ledger.sweep().freed == 0
    assert fleet.states() == ["QUARANTINE"]
    count(fleet)
    assert fleet.states() == ["FREE"]
    assert fleet.ledger.counters()["confirmed"] == 1


def test_a_slot_stays_while_its_disk_is_plugged(fleet: Fleet) -> None:
    start(fleet, cap=1)
    grant = fleet.hold()
    end(fleet, grant)
    assert not fleet.ledger.slots("lab", "h1")[0].stuck
    count(fleet, grant.disk)
    (slot,) = fleet.ledger.slots("lab", "h1")
    assert (slot.state, slot.stuck, slot.expires_in) == ("QUARANTINE", True, 0)
    assert slot.since == pytest.approx(TIMING.linger, abs=0.01)
    assert fleet.ledger.admit() == []
    fleet.clock.advance(TIMING.count_every)
    count(fleet)
    assert fleet.states() == ["FREE"]


def test_a_count_begun_before_the_rest_was_over_frees_nothing(fleet: Fleet) -> None:
    start(fleet, cap=2)
    first, second = fleet.hold(), fleet.hold()
    end(fleet, first)
    due = ask(fleet)
    fleet.ledger.release(second, Outcome.CLEAN)
    fleet.clock.advance(TIMING.linger)
    count(fleet, due=due)
    assert fleet.states() == ["FREE", "QUARANTINE"]


def test_a_lost_opening_rests_its_full_quarantine(fleet: Fleet) -> None:
    start(fleet, cap=1)
    (grant,) = fleet.ledger.admit()
    fleet.ledger.claim(grant, "node/1")
    fleet.clock.advance(TIMING.lease)
    fleet.ledger.sweep()
    fleet.clock.advance(TIMING.quarantine - 0.001)
    assert fleet.ledger.hosts_to_count() == []
    fleet.ledger.counted("lab", "h1", round(fleet.clock.now * 1000), [], 0)
    assert fleet.states() == ["QUARANTINE"]
    fleet.clock.advance(TIMING.count_every)
    count(fleet)
    assert fleet.states() == ["FREE"]


def test_a_stream_that_opened_after_the_question_does_not_hide_an_orphan(fleet: Fleet) -> None:
    """The reconciler sees one VBD. It is the orphan's: the new stream's was plugged a moment later."""
    start(fleet, cap=2, disks=1)
    first = fleet.hold()
    end(fleet, first)
    (second,) = fleet.ledger.admit()
    fleet.ledger.claim(second, "node/2")
    due = ask(fleet)
    fleet.clock.advance(0.5)
    fleet.ledger.opened(second)
    fleet.clock.advance(0.5)
    count(fleet, "d0", due=due)
    assert fleet.states()[first.slot] == "QUARANTINE"
    fleet.clock.advance(TIMING.count_every)
    count(fleet, "d0")  # now it is the new one's
    assert fleet.states()[first.slot] == "FREE"


def test_an_open_in_progress_does_not_hide_an_orphan_either(fleet: Fleet) -> None:
    start(fleet, cap=2, disks=1)
    first = fleet.hold()
    end(fleet, first)
    (second,) = fleet.ledger.admit()
    fleet.ledger.claim(second, "node/2")
    fleet.clock.advance(1)
    count(fleet, "d0")
    assert fleet.states()[first.slot] == "QUARANTINE"


def test_a_slot_whose_own_disk_is_not_plugged_is_free_whatever_else_is(fleet: Fleet) -> None:
    start(fleet, cap=3)
    first, second = fleet.hold(), fleet.hold()
    end(fleet, first)
    fleet.ledger.release(second, Outcome.FAILED)  # rests, and is still plugged
    fleet.clock.advance(1)
    count(fleet, second.disk)
    assert fleet.states() == ["FREE", "QUARANTINE", "FREE"]
    assert unaccounted(fleet) == 0


def test_a_slot_that_ended_after_the_question_does_not_cover_a_forgotten_connection(fleet: Fleet) -> None:
    """The forgotten holder's disk is all that the host shows, and both connections still count there."""
    start(fleet, cap=3, counted=False)
    count(fleet, "d9")
    second = fleet.hold()
    fleet.clock.advance(TIMING.count_unexplained)
    due = ask(fleet)
    fleet.clock.advance(0.1)
    fleet.ledger.release(second, Outcome.FAILED)
    count(fleet, "d9", due=due)
    assert unaccounted(fleet) == 1


def test_connections_that_no_slot_explains_take_the_place_of_slots(fleet: Fleet) -> None:
    start(fleet, cap=3, counted=False)
    count(fleet, "d8", "d8")
    (host,) = fleet.ledger.hosts()
    assert (host.unaccounted, host.effective_cap) == (2, 1)
    fleet.hold()
    assert fleet.ledger.admit() == []
    fleet.clock.advance(TIMING.count_unexplained)
    count(fleet, "d0")
    assert unaccounted(fleet) == 0
    assert len(fleet.ledger.admit()) == 2


def test_connections_of_others_leave_us_the_rest_of_sixteen(fleet: Fleet) -> None:
    start(fleet, cap=4, counted=False)
    count(fleet, others=14)
    (host,) = fleet.ledger.hosts()
    assert (host.others, host.effective_cap) == (14, 2)
    fleet.clock.advance(TIMING.count_unexplained)
    count(fleet, others=16)
    assert fleet.ledger.admit() == []
    fleet.clock.advance(TIMING.count_unexplained)
    count(fleet)
    assert fleet.ledger.hosts()[0].effective_cap == 4


@pytest.mark.parametrize("how", ["restarted", "emptied"])
def test_after_a_barrier_a_host_is_counted_before_anything_is_granted(fleet: Fleet, how: str) -> None:
    """A holder vanished while Redis forgot its slot: only the host knows of its connection."""
    start(fleet, cap=1)
    vanished = fleet.hold()
    due = fleet.clock.now
    if how == "emptied":
        fleet.clock.flush()
        fleet.ledger.barrier_left()
    else:
        fleet.ledger._redis.hset("cbtfleet:epoch", "run_id", "another")
        fleet.ledger.barrier_left()
    assert fleet.ledger.hosts_to_count() == []
    fleet.clock.advance(TIMING.barrier)
    if how == "emptied":
        start(fleet, cap=1, counted=False)
    fleet.ledger.sweep()
    fleet.ledger.node_alive("node", 50)
    assert fleet.ledger.admit() == []
    fleet.ledger.counted("lab", "h1", round(due * 1000) + 1, [], 0)  # asked before: says nothing of now
    assert fleet.ledger.admit() == []
    count(fleet, vanished.disk)
    assert fleet.ledger.admit() == []
    if how == "emptied":
        assert (fleet.states(), unaccounted(fleet)) == (["FREE"], 1)
    fleet.clock.advance(TIMING.barrier)
    count(fleet)
    fleet.ledger.node_alive("node", 50)
    assert len(fleet.ledger.admit()) == 1


def test_a_reasserted_slot_explains_nothing_until_its_connection_is_seen(fleet: Fleet) -> None:
    start(fleet, cap=1)
    (grant,) = fleet.ledger.admit()
    fleet.ledger.claim(grant, "node/1")
    fleet.clock.flush()
    assert fleet.ledger.renew([grant], "node/1") == [True]  # on its way to the host
    for _ in range(6):
        fleet.clock.advance(10)
        fleet.ledger.renew([grant], "node/1")
    fleet.clock.advance(1)
    start(fleet, cap=1, counted=False)
    count(fleet, "d8")
    assert unaccounted(fleet) == 1
    fleet.ledger.opened(grant)
    fleet.clock.advance(TIMING.count_unexplained)
    count(fleet, "d8")
    assert unaccounted(fleet) == 0


def test_each_question_is_handed_out_once_and_an_older_answer_is_ignored(fleet: Fleet) -> None:
    start(fleet, cap=1)
    end(fleet, fleet.hold())
    older = ask(fleet)
    assert fleet.ledger.hosts_to_count() == []
    fleet.clock.advance(TIMING.count_every)
    newer = ask(fleet)
    count(fleet, "d0", due=newer)
    count(fleet, due=older)
    assert fleet.states() == ["QUARANTINE"]


def test_a_connection_that_stays_for_long_is_looked_for_less_often(fleet: Fleet) -> None:
    start(fleet, cap=1)
    end(fleet, fleet.hold())
    fleet.clock.advance(TIMING.quarantine)
    count(fleet, "d0")
    fleet.clock.advance(TIMING.count_every)
    assert fleet.ledger.hosts_to_count() == []
    fleet.clock.advance(TIMING.count_unexplained)
    assert len(fleet.ledger.hosts_to_count()) == 1


def test_a_pool_that_cannot_be_counted_goes_by_time(fleet: Fleet) -> None:
    start(fleet, cap=1, counted=False)
    fleet.ledger.uncountable("lab", "h1", ask(fleet).asked)
    grant = fleet.hold()
    end(fleet, grant, Outcome.FAILED)
    assert fleet.ledger.hosts_to_count() == []
    assert fleet.ledger.sweep().freed == 1
    fleet.ledger.set_host("lab", "h1", 1, confirm=True)  # as every planning does
    fleet.hold()
    fleet.clock.advance(TIMING.count_retry)
    count(fleet)
    assert fleet.ledger.hosts()[0].counted_ago is not None


def test_hosts_that_are_not_asked_are_never_due(fleet: Fleet) -> None:
    fleet.start(disk_work("d1", 9))
    end(fleet, fleet.hold())
    assert fleet.ledger.hosts_to_count() == []
    assert fleet.ledger.sweep().freed == 1


def test_an_operator_releases_slots_in_every_state(fleet: Fleet) -> None:
    start(fleet, cap=2)
    held = fleet.hold()
    (granted,) = fleet.ledger.admit()
    assert fleet.ledger.free_slot("lab", "h1", granted.slot)
    assert not fleet.ledger.free_slot("lab", "h1", granted.slot)
    assert fleet.ledger.claim(granted, "node/1") is None
    assert fleet.ledger.free_slot("lab", "h1", held.slot)
    assert fleet.ledger.renew([held]) == [False]
    assert fleet.states() == ["QUARANTINE", "FREE"]
    fleet.clock.advance(TIMING.quarantine)
    count(fleet, held.disk)
    assert fleet.ledger.free_slot("lab", "h1", held.slot)
    assert (fleet.states(), fleet.ledger.hosts()[0].waived) == (["FREE", "FREE"], 1)


def test_a_waived_connection_is_not_waited_for_until_it_is_gone(fleet: Fleet) -> None:
    start(fleet, cap=2, disks=1)
    lost = fleet.hold()
    end(fleet, lost)
    count(fleet, "d0")
    fleet.ledger.free_slot("lab", "h1", lost.slot)
    again = fleet.hold()
    end(fleet, again)
    fleet.clock.advance(TIMING.count_every)
    count(fleet, "d0")  # the waived one
    assert (fleet.states(), unaccounted(fleet)) == (["FREE", "FREE"], 0)
    end(fleet, fleet.hold())
    count(fleet)  # it is gone
    assert fleet.ledger.hosts()[0].waived == 0
    end(fleet, fleet.hold())
    count(fleet, "d0")  # so this one is waited for
    assert fleet.states() == ["QUARANTINE", "FREE"]
