"""What happens when Redis forgets: restarted, emptied, or put back to an earlier moment."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from tests.conftest import redis_server_binary
from tests.fleet_clock import Fleet, disk_work
from workers.fleet import Ledger, LedgerError, LedgerUnreachable, LedgerUnsuitable, Outcome, Timing, Verdict

TIMING = Timing()


def restore_snapshot(client: redis.Redis, snapshot: dict[bytes, bytes]) -> None:
    """Redis is back with what it had earlier, under a new run id."""
    now = client.get("test:now")
    client.flushall()
    for key, value in snapshot.items():
        client.restore(key, 0, value)
    client.set("test:now", now or b"")
    client.hset("cbtfleet:epoch", "run_id", "another")


def take_snapshot(client: redis.Redis) -> dict[bytes, bytes]:
    return {key: client.dump(key) for key in client.keys("*")}


def test_an_unknown_redis_waits_before_its_first_grant(fleet: Fleet) -> None:
    assert fleet.ledger.barrier_left() == TIMING.barrier
    fleet.start(disk_work("d1", 9))  # found() comes too late here
    fleet.clock.advance(TIMING.barrier - 1)
    fleet.ledger.node_alive("node", 8)
    assert fleet.ledger.barrier_left() == 1
    assert fleet.ledger.admit() == []
    fleet.clock.advance(1)
    assert fleet.ledger.barrier_left() == 0
    assert len(fleet.ledger.admit()) == 1


def test_a_new_redis_that_its_maker_declares_new_does_not_wait(fleet: Fleet) -> None:
    assert fleet.ledger.found()
    assert fleet.ledger.barrier_left() == 0
    assert not fleet.ledger.found()


def test_a_used_redis_cannot_be_declared_new(fleet: Fleet, redis_client: redis.Redis) -> None:
    fleet.start(disk_work("d1", 9))
    redis_client.hset("cbtfleet:epoch", "run_id", "another")
    assert not fleet.ledger.found()
    assert fleet.ledger.barrier_left() == TIMING.barrier


def test_holders_go_on_through_a_restart_and_nobody_else_starts(
    fleet: Fleet, redis_client: redis.Redis
) -> None:
    fleet.start(disk_work("d1", 99), disk_work("d2", 99), disk_work("d3", 99))
    held = fleet.hold()
    (granted,) = fleet.ledger.admit(1)
    redis_client.hset("cbtfleet:epoch", "run_id", "another")
    assert fleet.ledger.claim(granted, "node/2") is None
    assert fleet.ledger.admit() == []
    batch = fleet.ledger.take(held).batch
    assert batch == 0
    assert fleet.ledger.commit(held, 0, 1, 1).verdict is Verdict.CONTINUE
    assert fleet.ledger.renew([held]) == [True]
    fleet.clock.advance(TIMING.grant)
    assert fleet.ledger.sweep().unclaimed == 0  # its claim may be what Redis forgot
    for _ in range(3):
        fleet.clock.advance(TIMING.grant)
        fleet.ledger.renew([held])
        fleet.ledger.node_alive("node", 8)
    assert fleet.ledger.sweep().unclaimed == 1
    assert len(fleet.ledger.admit()) == 2


def test_a_grant_from_before_a_barrier_is_not_claimed_after_it(
    fleet: Fleet, redis_client: redis.Redis
) -> None:
    fleet.start(disk_work("d1", 9))
    (grant,) = fleet.ledger.admit()
    redis_client.hset("cbtfleet:epoch", "run_id", "another")
    assert fleet.ledger.barrier_left() == TIMING.barrier
    fleet.clock.advance(TIMING.barrier)
    assert fleet.ledger.claim(grant, "node/1") is None


def test_holders_that_redis_forgot_take_their_slots_back(fleet: Fleet) -> None:
    fleet.start(disk_work("d1", 99))
    first, second = fleet.hold(owner="node/1"), fleet.hold(owner="node/2")
    fleet.clock.flush()
    assert fleet.ledger.renew([first], "node") == [True]
    (slot,) = fleet.ledger.slots("lab", "h1")
    assert (slot.state, slot.owner, slot.fence) == ("HELD", "node", first.fence)
    assert fleet.ledger.take(second).verdict is Verdict.CANCEL  # its slot is back, its run is gone
    fleet.ledger.set_host("lab", "h1", 2)
    assert [(slot.state, slot.fence) for slot in fleet.ledger.slots("lab", "h1")] == [
        ("HELD", first.fence),
        ("HELD", second.fence),
    ]
    fleet.ledger.release(first, Outcome.CLEAN)
    assert fleet.states() == ["QUARANTINE", "HELD"]
    fleet.clock.advance(TIMING.barrier)
    fleet.ledger.sweep()
    assert fleet.ledger.renew([first, second]) == [False, False]


def test_a_forgotten_slot_is_not_taken_back_after_the_barrier(fleet: Fleet) -> None:
    fleet.start(disk_work("d1", 99))
    held = fleet.hold()
    fleet.clock.flush()
    assert fleet.ledger.barrier_left() == TIMING.barrier
    fleet.clock.advance(TIMING.barrier)
    assert fleet.ledger.renew([held]) == [False]
    assert fleet.ledger.take(held).verdict is Verdict.FENCE


@pytest.mark.parametrize("renewed_before", [True, False])
def test_a_run_that_comes_again_after_a_flush_has_nothing_of_the_old_streams(
    fleet: Fleet, renewed_before: bool
) -> None:
    """The same run and disk with a new plan, while a stream from before goes on with the old one."""
    fleet.start(disk_work("d1", 99))
    old = fleet.hold()
    fleet.ledger.take(old)
    fleet.clock.flush()
    fleet.clock.advance(1)
    assert fleet.ledger.barrier_left() == TIMING.barrier
    if renewed_before:
        fleet.ledger.renew([old], "node/1")
    fleet.start(disk_work("d1", 99))
    assert fleet.ledger.commit(old, 0, 1, 1).verdict is Verdict.CANCEL
    assert fleet.ledger.verdicts([old]) == [Verdict.CANCEL]
    assert fleet.disk("d1").done == 0
    fleet.ledger.release(old, Outcome.CLEAN)
    assert fleet.disk("d1").streams == 0


@pytest.mark.parametrize("lost", ["claim", "grant", "commit"])
def test_a_redis_that_lost_its_last_moment(fleet: Fleet, redis_client: redis.Redis, lost: str) -> None:
    """Append-only files are written once a second: a crash takes Redis back by up to a second."""
    fleet.start(disk_work("d1", 3), caps={"h1": 1})
    snapshots = {"grant": take_snapshot(redis_client)}
    (grant,) = fleet.ledger.admit()
    snapshots["claim"] = take_snapshot(redis_client)
    fleet.ledger.claim(grant, "node/1")
    fleet.ledger.opened(grant)
    for _ in range(3):
        fleet.ledger.take(grant)
    snapshots["commit"] = take_snapshot(redis_client)
    fleet.ledger.commit(grant, 0, 1, 1)
    restore_snapshot(redis_client, snapshots[lost])

    assert fleet.ledger.claim(grant, "node/2") is None
    assert fleet.ledger.renew([grant], "node/1") == [True]
    assert fleet.states() == ["HELD"]
    assert fleet.disk("d1").streams == 1
    for batch in (2, 1, 0):
        fleet.ledger.commit(grant, batch, 1, 1)
    assert (fleet.disk("d1").state, fleet.disk("d1").done, fleet.disk("d1").read_bytes) == ("complete", 3, 3)


def test_a_slot_that_was_granted_later_is_not_taken_back(fleet: Fleet, redis_client: redis.Redis) -> None:
    fleet.start(disk_work("d1", 9), caps={"h1": 1})
    zombie = fleet.hold()
    fleet.clock.advance(TIMING.lease)
    fleet.ledger.sweep()
    fleet.clock.advance(TIMING.quarantine)
    fleet.ledger.sweep()
    fleet.ledger.node_alive("node", 8)
    holder = fleet.hold()
    redis_client.hset("cbtfleet:epoch", "run_id", "another")
    assert fleet.ledger.renew([zombie, holder]) == [False, True]


def test_fences_grow_even_when_redis_forgot_them(fleet: Fleet) -> None:
    fleet.start(disk_work("d1", 9))
    before = fleet.hold()
    fleet.clock.flush()
    fleet.clock.advance(1)
    fleet.start(disk_work("d1", 9))
    after = fleet.hold()
    assert after.slot == before.slot
    assert after.fence > before.fence


@pytest.fixture
def restartable_redis(tmp_path: Path) -> Iterator[tuple[str, list[subprocess.Popen[bytes]]]]:
    """A Redis with an append-only file; the list holds its process, for a test to end and replace."""
    processes: list[subprocess.Popen[bytes]] = []
    yield f"unix://{tmp_path / 'redis.sock'}", processes
    for process in processes:
        process.terminate()
        process.wait()


def start_redis(folder: Path) -> subprocess.Popen[bytes]:
    arguments = ["--port", "0", "--unixsocket", str(folder / "redis.sock"), "--dir", str(folder)]
    process = subprocess.Popen(
        [redis_server_binary(), *arguments, "--appendonly", "yes", "--appendfsync", "always"],
        stdout=subprocess.DEVNULL,
    )
    client = redis.Redis(unix_socket_path=str(folder / "redis.sock"), retry=None)
    for _ in range(500):
        try:
            client.ping()
            break
        except redis.ConnectionError:
            time.sleep(0.01)
    client.close()
    return process


def test_a_real_restart_is_noticed_and_loses_nothing(
    restartable_redis: tuple[str, list[subprocess.Popen[bytes]]], tmp_path: Path
) -> None:
    url, processes = restartable_redis
    processes.append(start_redis(tmp_path))
    ledger = Ledger.from_url(url)
    ledger.found()
    ledger.set_host("lab", "h1", 16)
    ledger.node_alive("node", 8)
    ledger.create_run("run", b"")
    ledger.add_vms("run", {"vm": b""})
    ledger.start_vm("run", "vm", [disk_work("d1", 2), disk_work("d2", 2)])
    (grant,) = ledger.admit(1)
    ledger.claim(grant, "node/1")
    ledger.commit(grant, 0, 1, 1)

    processes[0].kill()
    processes.pop().wait()
    with pytest.raises(LedgerUnreachable, match=r"Redis at .*redis.sock does not answer"):
        ledger.barrier_left()
    processes.append(start_redis(tmp_path))

    assert 59 < ledger.barrier_left() <= 60
    assert ledger.admit() == []
    assert ledger.renew([grant]) == [True]
    assert ledger.commit(grant, 1, 1, 1).verdict is Verdict.EMPTY
    assert next(disk.state for disk in ledger.progress("run").disks if disk.disk == grant.disk) == "complete"
    ledger.close()


def test_a_full_redis_is_said_in_one_line(fleet: Fleet, redis_client: redis.Redis) -> None:
    fleet.ledger.found()
    redis_client.config_set("maxmemory", "1mb")
    try:
        with pytest.raises(LedgerUnreachable, match="is out of memory: raise its maxmemory"):
            fleet.ledger.create_run("run", b"")
    finally:
        redis_client.config_set("maxmemory", "0")


def test_errors_name_the_address_and_never_the_password(redis_client: redis.Redis, redis_url: str) -> None:
    with pytest.raises(
        LedgerUnreachable, match=r"^Redis at 127\.0\.0\.1:1 does not answer: .*refused"
    ) as caught:
        Ledger.from_url("redis://user:geheim@127.0.0.1:1/0")
    assert "geheim" not in str(caught.value)
    with pytest.raises(LedgerUnsuitable, match="not an address of a Redis") as unsuitable:
        Ledger.from_url("http://user:geheim@127.0.0.1/")
    assert "geheim" not in str(unsuitable.value)
    redis_client.config_set("requirepass", "right")
    try:
        with pytest.raises(LedgerUnreachable, match="refuses the user name or password") as refused:
            Ledger.from_url(redis_url.replace("unix://", "unix://:geheim@"))
        assert "geheim" not in str(refused.value)
    finally:
        redis_client.config_set("requirepass", "")


def test_a_replica_is_not_the_ledger(fleet: Fleet, redis_client: redis.Redis) -> None:
    redis_client.replicaof("127.0.0.1", "1")
    try:
        with pytest.raises(LedgerUnreachable, match="read-only replica"):
            fleet.ledger.create_run("run", b"")
    finally:
        redis_client.replicaof("NO", "ONE")


def test_a_script_that_redis_cannot_run_is_our_error(fleet: Fleet, redis_client: redis.Redis) -> None:
    redis_client.set("cbtfleet:steps", "not a sorted set")
    fleet.ledger.found()
    with pytest.raises(LedgerError, match="failed a ledger call: "):
        fleet.ledger.create_run("run", b"")


def test_a_client_that_decodes_is_refused(redis_url: str) -> None:
    with pytest.raises(ValueError, match="does not decode"):
        Ledger(redis.Redis.from_url(redis_url, decode_responses=True))
