"""Seven nights of one pool: three hosts, shared and local storage, twelve VMs, one misfortune after another.

| night | before it | while it runs | read in full, once |
|---|---|---|---|
| 1 | | | every disk: the first backup |
| 2 | guests write | a guest goes on writing | |
| 3 | a disk grows | a host loses its power, and comes back | |
| 4 | the VMs of that host are started again | another host becomes master | their disks: tracking was lost |
| 5 | a disk is moved to other storage | the scheduler is killed | that disk |
| 6 | guests write | Redis loses everything | |
| 7 | guests write | | |

After each: tests/acceptance/night_judge.py. At the end: what `keep` keeps, and that nothing is left.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import redis

from tests.acceptance.conftest import LONG, Fleet, FleetMaker
from tests.acceptance.night_judge import Judge
from tests.acceptance.nightly_pool import ARGUMENTS, BLOCK, MACHINES, MIB, NightlyPool
from tests.until import PATIENCE

KEEP = 3
POLICY = f'include = {{ tags = ["backup"] }}\nkeep = {{ last = {KEEP} }}\n'
FASTER = "[fleet]\ntime_scale = 0.1\n[metrics]\nscheduler_port = 0\nworker_port = 0\n"
SLOW_READS = {"nbd": "slow", "seconds": 1.0, "count": -1}
"""So that a night lasts until what is to happen in it has happened."""

FIRST = "first backup|tracking is on from this backup on"
LOST = "host went down.*VDI_CBT_METADATA_INCONSISTENT"
MOVED = "moved to another storage repository"


@dataclass
class Site:
    fleet: Fleet
    pool: NightlyPool
    judge: Judge
    redis: redis.Redis
    result: dict[str, Any] = field(default_factory=dict)
    """Of the last night."""
    sessions_at_the_kill: set[str] = field(default_factory=set)

    @contextmanager
    def night(self, slow: bool = False) -> Iterator[None]:
        """The policy is run, the block plays fate meanwhile; then the result is there."""
        simulator = self.pool.simulator
        if slow:
            simulator.post("/fault", SLOW_READS)
        command = [sys.executable, "-m", "scheduler.cli", "--config", str(self.fleet.config)]
        with subprocess.Popen(
            [*command, "backup", "--policy", "nightly", "--wait", "--json"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=self.fleet.environment,
        ) as waiting:
            try:
                yield
                simulator.post("/fault/clear", {"nbd": "slow"})
                out, err = waiting.communicate(timeout=LONG)
            except BaseException:
                waiting.kill()
                raise
        assert out, f"{err}\n{self.fleet.report()}"
        self.result = json.loads(out)

    def until(self, true: Callable[[], bool]) -> None:
        self.fleet.wait_until(true)

    def all_planned(self) -> bool:
        """Every VM of the run that goes on has been snapshotted, and what to read of it is decided."""
        runs = [path.parent for path in (self.fleet.folder / "store" / "runs").glob("*/open")]
        tagged = sum("backup" in vm["tags"] for vm in MACHINES)
        return len(runs) == 1 and len(list(runs[0].glob("vms/*"))) == tagged

    def failed_streams(self) -> int:
        return int(self.redis.hget("cbtfleet:counters", "failed") or 0)

    def row(self, name: str) -> dict[str, Any]:
        """What the last night's result says of a disk."""
        [row] = [row for row in self.result["disks"] if row["vdi"] == self.pool.disks()[name]["vdi"]]
        return dict(row)

    def judge_night(self, due: Mapping[str, set[int]], full: Mapping[str, str]) -> None:
        self.judge.after_night(self.result, due, full)


@pytest.mark.slow
@pytest.mark.timeout(1800)  # three minutes alone; beside eight busy loops it took more than ten
def test_seven_nights(make_fleet: FleetMaker, redis_client: redis.Redis) -> None:
    fleet = make_fleet("file", simulator=ARGUMENTS)
    config = fleet.config.read_text()
    fleet.config.write_text(config.replace('include = { names = ["*"] }\n', POLICY) + FASTER)
    pool = NightlyPool.populate(fleet.simulator)
    site = Site(fleet, pool, Judge(fleet, pool), redis_client)
    fleet.start_all(workers=2, concurrency=2)
    for night in (
        everything_for_the_first_time,
        guests_write,
        a_host_loses_its_power,
        another_master,
        storage_migration_and_a_killed_scheduler,
        redis_loses_everything,
        a_quiet_night,
    ):
        night(site)
    what_is_kept_is_whole(site)
    nothing_is_left(site)


def everything_for_the_first_time(site: Site) -> None:
    with site.night():
        pass
    site.judge_night(site.pool.snapshotted(), full=dict.fromkeys(site.pool.disks(), FIRST))


def guests_write(site: Site) -> None:
    pool = site.pool
    pool.a_day()
    pool.write("db1 data", 20)
    with site.night(slow=True):
        site.until(lambda: {"db1 data", "db1 wal"} <= pool.snapshots_with_data())
        due = pool.snapshotted()
        pool.write("db1 data", 10)
        pool.write("db1 wal", 5)
    site.judge_night(due, full={})


def a_host_loses_its_power(site: Site) -> None:
    """What it served is read from other hosts; what only it has, when it is back."""
    pool = site.pool
    pool.a_day()
    pool.grow("files share", 9 * MIB)
    pool.write("db2 data", 40)
    pool.write("web2 root", 8)
    due = pool.snapshotted()
    with site.night(slow=True):
        site.until(lambda: site.all_planned() and "db2 data" in pool.being_read())
        failed = site.failed_streams()
        pool.fate_of_host(1, "down")
        site.until(lambda: site.failed_streams() > failed)
        pool.fate_of_host(1, "up")
    site.judge_night(due, full={})


def another_master(site: Site) -> None:
    """The VMs of the host that had crashed are on again: XenServer could not trust their disks' tracking."""
    pool = site.pool
    lost = pool.start_vms_on(1)
    assert lost == {"web2 root", "db2 root", "db2 data"}
    pool.a_day()
    due = pool.snapshotted()
    with site.night(slow=True):
        site.until(lambda: len(pool.snapshots_with_data()) >= 4)
        pool.make_master(2)
    site.judge_night(due, full=dict.fromkeys(lost, LOST))
    for name in lost:
        row = site.row(name)
        assert row["read_bytes"] > row["stored_bytes"] <= (len(due.get(name, ())) + 1) * BLOCK, row


def storage_migration_and_a_killed_scheduler(site: Site) -> None:
    """It dies while the pool makes a snapshot for it; another one finds that snapshot."""
    pool, fleet = site.pool, site.fleet
    pool.a_day()
    pool.move_to_local_storage("build cache", 2)
    due = pool.snapshotted()
    made = pool.calls("Async.VM.snapshot")
    pool.simulator.post("/fault", {"xapi": "Async.VM.snapshot", "delay": 2.0, "count": 1})
    with site.night():
        site.until(lambda: pool.calls("Async.VM.snapshot") > made)
        victim = fleet.processes.pop("scheduler")
        os.killpg(victim.pid, signal.SIGKILL)
        victim.wait(PATIENCE)
        site.sessions_at_the_kill = pool.sessions()
        fleet.start("scheduler", "scheduler")
    site.judge_night(due, full={"build cache": MOVED})


def redis_loses_everything(site: Site) -> None:
    pool = site.pool
    pool.a_day()
    for name in ("mail store", "files share", "db1 data", "db2 data"):
        pool.write(name, 10)
    due = pool.snapshotted()
    with site.night(slow=True):
        site.until(lambda: site.all_planned() and len(pool.being_read()) > 0)
        site.redis.flushall()
    site.judge_night(due, full={})


def a_quiet_night(site: Site) -> None:
    site.pool.a_day()
    due = site.pool.snapshotted()
    with site.night():
        pass
    site.judge_night(due, full={})


def what_is_kept_is_whole(site: Site) -> None:
    """The last nights of each VM, and older ones that are the newest of a disk which is no more."""
    judge = site.judge
    expected = {point for night in judge.nights[-KEEP:] for point in night.values()}
    before_it_moved = judge.nights[3]["build"]
    assert before_it_moved not in expected
    expected.add(before_it_moved)
    judge.kept_points_are_whole(expected)
    listed = site.fleet.json("points")["points"]
    assert {point["id"] for point in listed} == expected
    assert site.fleet.json("verify")["damaged"] == []


def nothing_is_left(site: Site) -> None:
    fleet = site.fleet
    hosts = fleet.json("slots")["hosts"]
    assert [host["used"] for host in hosts] == [0, 0, 0]
    assert [(host["name"], host["troubles"]) for host in hosts if host["troubles"]] == []
    assert [slot for host in hosts for slot in host["slots"] if slot["stuck"]] == []
    fleet.json("doctor")
    assert fleet.json("cleanup", "--dry-run")["leftovers"] == []
    for process in fleet.processes.values():
        process.send_signal(signal.SIGTERM)
    for name, process in fleet.processes.items():
        assert (name, process.wait(PATIENCE)) == (name, 0)
    unforeseen = [line for line in fleet.logs().splitlines() if "Traceback" in line]
    assert unforeseen == [], "\n".join(unforeseen)
    left = site.pool.sessions() - site.sessions_at_the_kill
    assert left == set(), "only a scheduler that was killed cannot log out: XAPI ends its sessions in a day"
