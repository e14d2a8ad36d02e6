"""Redis loses everything, schedulers are killed: the run ends well all the same, and reads nothing twice."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from typing import Any

import redis

from tests.acceptance.conftest import LONG, Fleet, FleetMaker
from tests.until import PATIENCE

BATCH = 32 << 20


def hurry(fleet: Fleet) -> None:
    """Leases and the barrier are a tenth of what they are: a barrier lasts six seconds."""
    fleet.config.write_text(
        fleet.config.read_text() + "\n[fleet]\ntime_scale = 0.1\n[metrics]\nscheduler_port = 0\n"
    )


def start_backup(fleet: Fleet) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "scheduler.cli", "--config", str(fleet.config)]
    names = [word for vm in fleet.simulator.vms for word in ("--vm", vm["name"])]
    return subprocess.Popen(
        [*command, "backup", "--pool", "lab", *names, "--wait", "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=fleet.environment,
    )


def packs(fleet: Fleet, vdi: str) -> list[int]:
    """Batches of the disk that have a pack, one entry a pack."""
    found = (fleet.folder / "store" / "packs" / vdi).rglob("*")
    return [int(path.name[:8]) for path in found if re.fullmatch(r"\d{8}-[0-9a-f]{32}", path.name)]


def assert_pool_is_clean(fleet: Fleet) -> None:
    left = fleet.simulator.leftovers()
    assert (left["vm_snapshots"], left["plugged_vbds"]) == ([], [])
    assert sorted(each["snapshot_of"] for each in left["vdi_snapshots"]) == sorted(fleet.simulator.disks)
    assert {each["type"] for each in left["vdi_snapshots"]} == {"cbt_metadata"}


def result_of(fleet: Fleet, waiting: subprocess.Popen[str]) -> dict[str, Any]:
    out, err = waiting.communicate(timeout=LONG)
    assert waiting.returncode == 0, f"{out}\n{err}\n{fleet.report()}"
    return dict(json.loads(out))


def test_redis_is_emptied_and_its_clients_are_killed_in_the_middle_of_a_run(
    make_fleet: FleetMaker, redis_client: redis.Redis
) -> None:
    fleet = make_fleet(
        "file", simulator=("--hosts", "2", "--vms", "1", "--disks", "1", "--disk-size", "256MiB")
    )
    hurry(fleet)
    simulator = fleet.simulator
    [vdi] = simulator.disks
    simulator.post("/fault", {"nbd": "slow", "seconds": 0.03, "count": -1})
    fleet.start_all(workers=1, concurrency=1)
    with start_backup(fleet) as waiting:
        fleet.wait_until(lambda: len(packs(fleet, vdi)) >= 2)
        redis_client.flushall()
        stored = set(packs(fleet, vdi))
        before = {connection["id"] for connection in simulator.get("/log")["connections"]}
        assert len(stored) < 8, "it was lost in the middle"
        fleet.wait_until(lambda: len(simulator.get("/log")["connections"]) > len(before))
        redis_client.client_kill_filter(_type="normal", skipme=True)
        result = result_of(fleet, waiting)
    assert result["status"] == "succeeded"
    assert result["disks"][0]["read_bytes"] == 256 << 20
    log = simulator.get("/log")
    again = {
        read["offset"] // BATCH
        for read in log["reads"]
        if read["connection"] not in before and read["offset"] // BATCH in stored
    }
    assert again == set(), "what had a pack was read again"
    assert len({read["vdi"] for read in log["reads"]}) == 1, "one snapshot"
    assert log["calls"]["Async.VM.snapshot"] == 1
    assert sum(log["rejects"].values()) == 0
    assert_pool_is_clean(fleet)
    fleet.stop_all()
    assert fleet.restored_digests() == {(result["disks"][0]["point"], vdi): simulator.content_sha256(vdi)}
    runs = fleet.folder / "store" / "runs" / result["run"]
    assert sorted(path.name for path in runs.rglob("*") if path.is_file()) == ["result"]


def test_schedulers_that_are_killed_in_a_step_leave_nothing_doubled(make_fleet: FleetMaker) -> None:
    fleet = make_fleet(
        "file", simulator=("--hosts", "2", "--vms", "2", "--disks", "1", "--disk-size", "8MiB")
    )
    hurry(fleet)
    simulator = fleet.simulator
    fleet.start_all(workers=1, concurrency=2)

    def kill_during(method: str) -> None:
        """Kills the scheduler while it waits for the answer to `method`, and starts another."""
        fleet.wait_until(lambda: simulator.get("/log")["calls"].get(method, 0) > 0)
        victim = fleet.processes.pop("scheduler")
        os.killpg(victim.pid, signal.SIGKILL)
        victim.wait(PATIENCE)
        fleet.start("scheduler", "scheduler")

    for method in ("Async.VM.snapshot", "Async.VM.destroy"):
        simulator.post("/fault", {"xapi": method, "delay": 2.0, "count": 1})
    with start_backup(fleet) as waiting:
        kill_during("Async.VM.snapshot")
        fleet.start("scheduler2", "scheduler")
        fleet.wait_until(lambda: len(packs(fleet, simulator.disks[0])) > 0)
        kill_during("Async.VM.destroy")
        result = result_of(fleet, waiting)
    assert result["status"] == "succeeded"
    assert simulator.get("/log")["calls"]["Async.VM.snapshot"] == 2, "one a VM"
    assert_pool_is_clean(fleet)
    fleet.stop_all()
    expected = {(row["point"], row["vdi"]): simulator.content_sha256(row["vdi"]) for row in result["disks"]}
    assert fleet.restored_digests() == expected
    for vdi in simulator.disks:
        assert len(packs(fleet, vdi)) == len(set(packs(fleet, vdi)))
