"""The main job, end to end: every byte of every restore point, and not one read too many."""

from __future__ import annotations

import os
import signal
from contextlib import closing
from typing import Any

import pytest

from tests.acceptance.conftest import Fleet, FleetMaker
from tests.until import PATIENCE
from workers.fleet import Ledger
from workers.settings import load_settings

BLOCK = 65536
ROW = [
    *("vm", "vm_uuid", "vdi", "mode", "reason", "changed_bytes", "read_bytes", "stored_bytes", "seconds"),
    *("point", "error"),
]
"""What a disk of `backup --wait --json` has, and nothing else."""


def reads_by_disk(fleet: Fleet) -> dict[str, list[tuple[int, int]]]:
    """(offset, length) of every read by *live* disk, from the hosts' own log."""
    live = {each["uuid"]: each["snapshot_of"] for each in fleet.simulator.leftovers()["vdi_snapshots"]}
    reads: dict[str, list[tuple[int, int]]] = {}
    for read in fleet.simulator.get("/log")["reads"]:
        reads.setdefault(live[read["vdi"]], []).append((read["offset"], read["length"]))
    return reads


def blocks_read(reads: list[tuple[int, int]]) -> list[int]:
    return sorted(
        block for offset, length in reads for block in range(offset // BLOCK, -(-(offset + length) // BLOCK))
    )


def point_of(result: dict[str, Any], vdi: str) -> str:
    [row] = [row for row in result["disks"] if row["vdi"] == vdi]
    assert row["error"] is None
    return str(row["point"])


def assert_pool_is_clean(fleet: Fleet, sessions: int = 0) -> None:
    """Nothing but the newest metadata snapshot of each disk is left, and a session a process at most."""
    left = fleet.simulator.leftovers()
    assert left["vm_snapshots"] == []
    assert left["plugged_vbds"] == []
    assert left["sessions"] <= sessions + 10  # idle ones: stream processes keep one each for a while
    assert {each["type"] for each in left["vdi_snapshots"]} == {"cbt_metadata"}
    assert sorted(each["snapshot_of"] for each in left["vdi_snapshots"]) == sorted(fleet.simulator.disks)


@pytest.mark.parametrize(
    ("store", "encrypted", "workers"),
    [("s3", True, 1), ("s3", False, 8), ("file", True, 8), ("file", False, 1)],
)
def test_every_point_restores_to_the_byte(
    make_fleet: FleetMaker, store: str, encrypted: bool, workers: int
) -> None:
    fleet = make_fleet(store, encrypted)
    simulator = fleet.simulator
    fleet.start_all(workers=min(workers, 2), concurrency=-(-workers // 2))
    expected: dict[tuple[str, str], str] = {}

    def night(number: int) -> dict[str, Any]:
        contents = {vdi: simulator.content_sha256(vdi) for vdi in simulator.disks}
        simulator.post("/log/clear", {})
        result = fleet.backup()
        assert result["status"] == "succeeded"
        assert list(result) == ["run", "status", "disks"]
        assert all(list(row) == ROW for row in result["disks"])
        for vdi in simulator.disks:
            expected[point_of(result, vdi), vdi] = contents[vdi]
        assert_pool_is_clean(fleet)
        log = simulator.get("/log")
        assert max(log["peak"].values()) <= 16
        assert sum(log["rejects"].values()) == 0
        return result

    first = night(1)
    assert {row["mode"] for row in first["disks"]} == {"full"}
    assert all(row["reason"] for row in first["disks"])
    for vdi, reads in reads_by_disk(fleet).items():
        assert blocks_read(reads) == list(range(24 * 16)), vdi

    written = {vdi: simulator.write(vdi, seed, 20 + seed) for seed, vdi in enumerate(simulator.disks, 1)}
    second = night(2)
    assert {(row["mode"], row["reason"]) for row in second["disks"]} == {("incremental", None)}
    reads_of = reads_by_disk(fleet)
    for vdi, blocks in written.items():
        assert blocks_read(reads_of[vdi]) == sorted(blocks)
    for row in second["disks"]:
        assert row["changed_bytes"] == row["read_bytes"] == len(written[row["vdi"]]) * BLOCK

    grown = simulator.disks[0]
    simulator.post("/resize", {"vdi": grown, "size": 32 << 20})
    written = {vdi: simulator.write(vdi, seed, 15, "text") for seed, vdi in enumerate(simulator.disks, 7)}
    third = night(3)
    assert {(row["mode"], row["reason"]) for row in third["disks"]} == {("incremental", None)}
    reads_of = reads_by_disk(fleet)
    for vdi, blocks in written.items():
        assert blocks_read(reads_of[vdi]) == sorted(blocks)

    fleet.stop_all()
    points = fleet.json("points")["points"]
    assert len(points) == 6
    assert all(set(point) == {"id", "vm", "vm_uuid", "time", "disks", "run"} for point in points)
    disk_keys = {"vdi", "virtual_size", "sha256"}
    assert all(set(disk) == disk_keys for point in points for disk in point["disks"])
    sizes = {(point["id"], disk["vdi"]): disk["virtual_size"] for point in points for disk in point["disks"]}
    assert sizes[point_of(third, grown), grown] == 32 << 20
    assert sizes[point_of(second, grown), grown] == 24 << 20
    assert set(sizes) == set(expected)
    assert fleet.restored_digests() == expected
    assert fleet.restored_sha256(point_of(third, grown), grown) == expected[point_of(third, grown), grown]
    verified = fleet.json("verify")
    assert verified["damaged"] == []
    assert verified["checked_frames"] > 0


def test_a_night_without_changes_reads_and_stores_nothing(make_fleet: FleetMaker) -> None:
    fleet = make_fleet("file")
    fleet.start_all()
    fleet.backup()
    packs = sorted((fleet.folder / "store" / "packs").rglob("*"))
    fleet.simulator.post("/log/clear", {})
    result = fleet.backup()
    assert result["status"] == "succeeded"
    assert {(row["mode"], row["read_bytes"], row["stored_bytes"]) for row in result["disks"]} == {
        ("incremental", 0, 0)
    }
    assert sorted((fleet.folder / "store" / "packs").rglob("*")) == packs
    log = fleet.simulator.get("/log")
    assert log["connections"] == []
    assert len(fleet.json("points")["points"]) == 4
    vdi = fleet.simulator.disks[0]
    assert fleet.restored_sha256(point_of(result, vdi), vdi) == fleet.simulator.content_sha256(vdi)


def test_the_cap_holds_with_more_streams_than_slots(make_fleet: FleetMaker) -> None:
    fleet = make_fleet(
        "file",
        simulator=("--hosts", "1", "--vms", "3", "--disks", "2", "--disk-size", "64MiB"),
        pool={"connections_per_host": 3},
    )
    fleet.start_all(workers=2, concurrency=4)
    result = fleet.backup()
    assert result["status"] == "succeeded"
    log = fleet.simulator.get("/log")
    assert max(log["peak"].values()) <= 3
    assert sum(log["rejects"].values()) == 0


def test_a_worker_that_is_asked_to_stop_gives_back_what_it_has_not_begun(make_fleet: FleetMaker) -> None:
    fleet = make_fleet(
        "file", simulator=("--hosts", "1", "--vms", "1", "--disks", "1", "--disk-size", "1GiB")
    )
    simulator = fleet.simulator
    simulator.post("/fault", {"nbd": "slow", "seconds": 0.02, "count": 10_000})
    fleet.start_all(workers=2)
    submitted = fleet.json("backup", "--pool", "lab", "--vm", simulator.vms[0]["name"])
    run = submitted["run"]
    fleet.wait_until(lambda: len(simulator.get("/log")["reads"]) > 40)
    busy = fleet.processes.pop("worker0")
    busy.send_signal(signal.SIGTERM)
    assert busy.wait(PATIENCE) == 0
    fleet.wait_until(lambda: fleet.json("status", run)["state"] == "ended")
    simulator.post("/fault/clear", {})
    [row] = [row for row in fleet.json("runs")["runs"] if row["run"] == run]
    assert row["status"] == "succeeded", fleet.report()
    [reads] = reads_by_disk(fleet).values()
    assert blocks_read(reads) == list(range(1024 * 16)), "a block was read twice, or not at all"


def test_a_killed_stream_process_costs_what_it_had_in_hand(make_fleet: FleetMaker) -> None:
    fleet = make_fleet(
        "file", simulator=("--hosts", "1", "--vms", "1", "--disks", "1", "--disk-size", "512MiB")
    )
    simulator = fleet.simulator
    [vdi] = simulator.disks
    content = simulator.content_sha256(vdi)
    simulator.post("/fault", {"nbd": "slow", "seconds": 0.01, "count": 10_000})
    fleet.start_all(workers=1, concurrency=1)
    run = fleet.json("backup", "--pool", "lab", "--vm", simulator.vms[0]["name"])["run"]
    fleet.wait_until(lambda: len(simulator.get("/log")["reads"]) > 100)
    with closing(Ledger.open(load_settings(fleet.config, fleet.environment))) as ledger:
        [host] = ledger.hosts()
        [owner] = [slot.owner for slot in ledger.slots(host.pool, host.host) if slot.state == "HELD"]
    os.kill(int(owner.rpartition("/")[2]), signal.SIGKILL)
    fleet.wait_until(lambda: "batches are given back" in fleet.logs())
    simulator.post("/fault/clear", {})
    fleet.wait_until(lambda: fleet.json("status", run)["state"] == "ended")
    [reads] = reads_by_disk(fleet).values()
    blocks = blocks_read(reads)
    assert set(blocks) == set(range(512 * 16))
    assert len(blocks) - len(set(blocks)) <= 3 * 512, "more than three batches were read again"
    [point] = fleet.json("points")["points"]
    assert fleet.restored_sha256(point["id"], vdi) == content
    assert_pool_is_clean(fleet, sessions=1)  # the dead process's; XAPI collects it
