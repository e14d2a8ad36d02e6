"""Waiting for a run and watching one, while somebody else cancels it."""

from __future__ import annotations

import json
import subprocess
import sys

from tests.acceptance.conftest import LONG, Fleet, FleetMaker

SMALL = ("--hosts", "1", "--vms", "1", "--disks", "1", "--disk-size", "4MiB")


def start(fleet: Fleet, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "scheduler.cli", "--config", str(fleet.config), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=fleet.environment,
    )


def test_a_cancelled_run_ends_with_3_and_leaves_nothing(make_fleet: FleetMaker) -> None:
    fleet = make_fleet("file", simulator=SMALL)
    fleet.start("scheduler", "scheduler")  # and no worker, so the run cannot end by itself
    vm = fleet.simulator.vms[0]["name"]
    with start(fleet, "backup", "--pool", "lab", "--vm", vm, "--wait", "--json") as waiting:
        assert waiting.stderr is not None
        run = waiting.stderr.readline().split()[1]
        fleet.wait_until(lambda: fleet.json("status")["state"] == "running")
        with start(fleet, "status", "--watch", "--json") as watching:
            assert fleet.json("cancel", run) == {"run": run, "status": "cancelling"}
            out, _ = waiting.communicate(timeout=LONG)
            watched, said = watching.communicate(timeout=LONG)
    assert waiting.returncode == 3, said
    result = json.loads(out)
    assert (result["run"], result["status"]) == (run, "cancelled")
    assert [row["point"] for row in result["disks"]] == [None]
    assert watching.returncode == 0, said
    assert json.loads(watched)["state"] == "ended"
    assert json.loads(watched)["result"]["status"] == "cancelled"
    assert {run: "cancelled"} == {each["run"]: each["status"] for each in fleet.json("runs")["runs"]}
    assert "has ended" in fleet.json("cancel", run, expect=1)["error"]
    assert fleet.json("points") == {"points": []}
    left = fleet.simulator.leftovers()
    assert (left["vm_snapshots"], left["vdi_snapshots"], left["plugged_vbds"]) == ([], [], [])


def test_it_says_that_no_worker_is_there(make_fleet: FleetMaker) -> None:
    fleet = make_fleet("file", simulator=SMALL)
    fleet.start("scheduler", "scheduler")
    vm = fleet.simulator.vms[0]["name"]
    with start(fleet, "backup", "--pool", "lab", "--vm", vm, "--wait") as waiting:
        assert waiting.stderr is not None
        for line in waiting.stderr:
            if "no worker is running" in line:
                break
        fleet.start("worker", "worker", "--concurrency", "1")
        out, err = waiting.communicate(timeout=LONG)
    assert waiting.returncode == 0, err
    assert "succeeded" in out
    assert "full, because" in out
