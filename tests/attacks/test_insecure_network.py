"""Who sits on a network without TLS sees disks only where the configuration of the pool allows it."""

from __future__ import annotations

from pathlib import Path

from tests.acceptance.conftest import FleetMaker
from tests.acceptance.worker_site import WorkerSite

POOL = ("--hosts", "1", "--vms", "1", "--disks", "2", "--disk-size", "4MiB", "--insecure-nbd")


def test_nothing_is_sent_there_and_each_disk_says_why(make_fleet: FleetMaker) -> None:
    fleet = make_fleet("file", encrypted=False, simulator=POOL)
    fleet.start_all(workers=1)
    result = fleet.backup(expect=1)
    assert result["status"] == "failed"
    assert len(result["disks"]) == 2
    for row in result["disks"]:
        assert "insecure_nbd, which has no TLS: nothing is sent there" in row["error"]
        assert row["read_bytes"] == 0
    assert fleet.simulator.get("/log")["connections"] == []
    doctor = fleet.command("doctor")
    assert doctor.returncode == 1
    assert "insecure_nbd, which has no TLS: nothing is read over it" in doctor.stdout


def test_where_it_is_allowed_each_row_says_so(make_fleet: FleetMaker) -> None:
    fleet = make_fleet("file", encrypted=False, simulator=POOL, pool={"allow_insecure_nbd": True})
    fleet.start_all(workers=1)
    result = fleet.backup()
    assert len(result["disks"]) == 2
    for row in result["disks"]:
        assert row["warnings"] == [
            "read without TLS, over a network of the purpose insecure_nbd: whoever sits on it sees the disk"
        ]
    shown = fleet.command("status", result["run"]).stdout
    assert shown.count("read without TLS") == 2
    assert "disks cross it unencrypted" in fleet.command("doctor").stdout


def test_a_plan_that_was_made_for_tls_is_not_read_without(tmp_path: Path) -> None:
    """The pool's word changed after the run was planned, so the run's result would not say it."""
    site = WorkerSite(tmp_path, batches=1, configured="allow_insecure_nbd = true\n")
    try:
        run = site.submit()
        site.wait_until(lambda: site.disk(run))
        site.pool.set_purpose("insecure_nbd")
        site.start_node(1, ("workers.node.main",))
        site.wait_until(lambda: (disk := site.disk(run)) and disk.state == "failed")
        disk = site.disk(run)
        assert disk is not None
        assert "no longer serves it with TLS, as it did when the run was planned; nothing was sent" in str(
            disk.error
        )
        assert site.pool.log()["connections"] == []
    finally:
        site.close()
