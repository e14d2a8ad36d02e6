"""Started in the background of a script: Ctrl-C is not for us, and a hook does not inherit that."""

from __future__ import annotations

import signal

from tests.acceptance.conftest import FleetMaker
from tests.default_signals import IN_BACKGROUND
from tests.until import PATIENCE


def test_ctrl_c_is_not_for_scheduler_and_worker_and_sigterm_stops_them(make_fleet: FleetMaker) -> None:
    fleet = make_fleet(
        "file", simulator=("--hosts", "1", "--vms", "1", "--disks", "1", "--disk-size", "2MiB")
    )
    hook = f'["sh", "-c", "grep SigIgn /proc/self/status > {fleet.folder}/ignored-by-hook"]'
    fleet.config.write_text(f"{fleet.config.read_text()}hooks = {{ before_snapshot = {hook} }}\n")
    fleet.start("scheduler", "scheduler", by=IN_BACKGROUND)
    fleet.start("worker", "worker", "--concurrency", "1", by=IN_BACKGROUND)
    fleet.wait_until(
        lambda: "scheduler is ready" in fleet.logs() and "is ready for 1 streams" in fleet.logs()
    )
    for process in fleet.processes.values():
        process.send_signal(signal.SIGINT)
    assert fleet.json("backup", "--policy", "nightly", "--wait")["status"] == "succeeded"
    ignored = int((fleet.folder / "ignored-by-hook").read_text().split()[1], 16)
    assert not ignored & 1 << signal.SIGINT - 1
    for name, process in fleet.processes.items():
        process.send_signal(signal.SIGTERM)
        assert (name, process.wait(PATIENCE)) == (name, 0)
