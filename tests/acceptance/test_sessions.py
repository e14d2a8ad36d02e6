"""Real worker and scheduler processes: few logins, and nobody is logged in when they have ended."""

from __future__ import annotations

from tests.acceptance.conftest import FleetMaker

SMALL = ("--hosts", "2", "--vms", "4", "--disks", "2", "--disk-size", "8MiB")


def test_processes_log_in_once_each_and_log_out_when_they_end(make_fleet: FleetMaker) -> None:
    fleet = make_fleet("file", simulator=SMALL)
    fleet.start_all(workers=1, concurrency=2)
    for _ in range(3):
        assert fleet.backup()["status"] == "succeeded"
    calls = fleet.simulator.get("/log")["calls"]
    streams = calls["VDI.get_nbd_info"]
    assert streams >= 24
    steps = 3 * (1 + 4 + 4)  # plan-run, and a plan-vm and a finish-vm for each VM
    # Two idle sessions are kept in each process, so how many it takes depends on how many steps meet.
    assert calls["session.login_with_password"] <= (streams + steps) / 2
    fleet.stop_all()
    assert fleet.simulator.leftovers()["sessions"] == 0
    calls = fleet.simulator.get("/log")["calls"]
    assert calls["session.logout"] == calls["session.login_with_password"]
