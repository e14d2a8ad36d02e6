"""Runs share by weight, their disks evenly; and what admission costs does not depend on how many wait."""

from __future__ import annotations

import dataclasses
from collections import Counter

import pytest
import redis

from tests.fleet_clock import Fleet, disk_work
from workers.fleet import DiskWork, Grant, Limits, Outcome, Timing, Verdict

TIMING = Timing()


def start(fleet: Fleet, runs: dict[str, tuple[int, float]], processes: int, cap: int = 16) -> None:
    """Runs of so many disks and such a weight, on two hosts that have answered before."""
    fleet.ledger.found()
    for host in ("h1", "h2"):
        fleet.ledger.set_host("lab", host, cap)
        fleet.ledger._redis.hset(f"cbtfleet:host:lab/{host}", "answered", 1)
    fleet.ledger.node_alive("node", processes)
    for run, (disks, weight) in runs.items():
        fleet.ledger.create_run(run, b"")
        fleet.ledger.add_vms(run, {"vm": b""})
        works = [disk_work(f"{run}-{i:03}", 5000, hosts=("h1", "h2"), weight=weight) for i in range(disks)]
        fleet.ledger.start_vm(run, "vm", [dataclasses.replace(work, run=run) for work in works])


def work_off(fleet: Fleet, processes: int, rounds: int) -> Counter[str]:
    """Each stream commits a batch a round, of half a second; batches by disk."""
    streams: dict[Grant, int] = {}
    done: Counter[str] = Counter()
    for _ in range(rounds):
        fleet.clock.advance(0.5)
        fleet.ledger.node_alive("node", processes)
        fleet.ledger.sweep()
        fleet.ledger.renew(list(streams))
        for grant in fleet.ledger.admit():
            if fleet.ledger.claim(grant, "node/1") and fleet.ledger.opened(grant):
                streams[grant] = fleet.ledger.take(grant).batch  # type: ignore[assignment]
        for grant, batch in list(streams.items()):
            following = fleet.ledger.commit(grant, batch, 1, 1)
            done[grant.disk] += 1
            if following.batch is None:
                assert following.verdict is Verdict.YIELD
                fleet.ledger.release(grant, Outcome.CLEAN)
                del streams[grant]
            else:
                streams[grant] = following.batch
    return done


def by_run(done: Counter[str]) -> Counter[str]:
    runs: Counter[str] = Counter()
    for disk, batches in done.items():
        runs[disk.partition("-")[0]] += batches
    return runs


@pytest.mark.parametrize(
    ("runs", "share"),
    [
        ({"a": (6, 1.0), "b": (6, 1.0)}, 1.0),
        ({"a": (12, 1.0), "b": (2, 1.0)}, 1.0),
        ({"a": (6, 3.0), "b": (6, 1.0)}, 3.0),
        ({"a": (2, 3.0), "b": (12, 1.0)}, 3.0),
    ],
    ids=["equal", "many disks and few", "by weight", "few disks of more weight"],
)
def test_two_runs_share_by_weight_however_many_disks_each_has(
    fleet: Fleet, runs: dict[str, tuple[int, float]], share: float
) -> None:
    start(fleet, runs, processes=4)
    done = by_run(work_off(fleet, 4, 700))
    assert done["a"] / done["b"] == pytest.approx(share, rel=0.25)


def test_the_disks_of_a_run_advance_evenly(fleet: Fleet) -> None:
    start(fleet, {"a": (8, 1.0)}, processes=3)
    done = work_off(fleet, 3, 1000)
    values = [done[f"a-{i:03}"] for i in range(8)]
    assert sum(values) ** 2 / (8 * sum(value * value for value in values)) > 0.98  # Jain's index


def test_a_run_that_comes_later_has_its_share_at_once(fleet: Fleet) -> None:
    start(fleet, {"a": (6, 1.0)}, processes=4)
    work_off(fleet, 4, 150)
    for grant in [slot for slot in fleet.ledger.slots("lab", "h1") if slot.state == "HELD"]:
        assert fleet.ledger.free_slot("lab", "h1", grant.number)
    for grant in [slot for slot in fleet.ledger.slots("lab", "h2") if slot.state == "HELD"]:
        assert fleet.ledger.free_slot("lab", "h2", grant.number)
    fleet.clock.advance(TIMING.quarantine)
    start(fleet, {"b": (6, 1.0)}, processes=4)
    done = by_run(work_off(fleet, 4, 500))
    assert done["b"] / done["a"] == pytest.approx(1, rel=0.25)


def test_a_run_that_could_not_be_served_has_no_claim_to_all_it_missed(fleet: Fleet) -> None:
    start(fleet, {"a": (4, 1.0), "b": (4, 1.0)}, processes=4)
    fleet.ledger._redis.zadd("cbtfleet:sharing", {"a": 50_000, "b": 10})
    fleet.ledger._redis.set("cbtfleet:vtime", 50_000)
    fleet.ledger.admit()
    assert fleet.ledger._redis.zscore("cbtfleet:sharing", "b") == 50_000 - Limits().lag


def cost_of_admit(fleet: Fleet, client: redis.Redis) -> int:
    client.config_resetstat()
    fleet.ledger.admit()
    stats = client.info("commandstats")
    return sum(int(each["calls"]) for each in stats.values())


def many(count: int, hosts: tuple[str, ...]) -> list[DiskWork]:
    return [disk_work(f"d{i:04}", 9, hosts=hosts) for i in range(count)]


@pytest.mark.parametrize("case", ["hosts full", "an idle host that sees none of them", "one is granted"])
def test_admission_costs_the_same_however_many_disks_wait(
    fleet: Fleet, redis_client: redis.Redis, case: str
) -> None:
    costs = []
    for count in (20, 2000):
        fleet.clock.flush()
        caps = {"h1": 1, "idle": 16}
        fleet.start(*many(count, ("h1",)), caps=caps, processes=50)
        if case != "one is granted":
            fleet.hold()
        if case == "hosts full":
            fleet.ledger.set_host("lab", "idle", 1)
        costs.append(cost_of_admit(fleet, redis_client))
    assert costs[0] == costs[1]
    assert costs[0] < 100
