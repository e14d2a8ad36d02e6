"""The demo's own judgement: it must say so when anything is not as it should be."""

from __future__ import annotations

import dataclasses
import importlib.util
import shutil
from pathlib import Path
from typing import Any

import pytest

from infra.simulator import SimulatedPool, plain_pool
from infra.simulator.control import serve_control
from scheduler.demo.control import Control, SimulatorFailed
from scheduler.demo.stage import DemoFailed, Stage
from scheduler.demo.story import Backup, Comparison, Told
from tests.command_line import CommandLine
from workers.repository import DiskPoint, Point

DISK = DiskPoint("vdi", "root", "0", 1 << 20, "snapshot", "sr", "full", None, 0, 0, 0, ())
POINT = Point("0123456789ab", "web", "vm", "2026-11-22T01:00:00Z", "run", "lab", (DISK,))
ROW: dict[str, Any] = {"vdi": "vdi", "mode": "incremental", "changed_bytes": 131072, "read_bytes": 131072}
GOOD = Told(
    full=Backup({"disks": []}, 1.0),
    incremental=Backup({"disks": [ROW]}, 1.0),
    written={"vdi": 2},
    comparisons=[Comparison(POINT, DISK, 1.0, None)],
    log={"peak": {}},
    leftovers={"vm_snapshots": [], "plugged_vbds": [], "vdi_snapshots": []},
    seconds=2.0,
)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"comparisons": [Comparison(POINT, DISK, 1.0, 4096)]},
            "root of point 0123456789ab differs from byte 4096",
        ),
        ({"incremental": Backup({"disks": [ROW | {"mode": "full"}]}, 1.0)}, "its guest wrote"),
        ({"incremental": Backup({"disks": [ROW | {"read_bytes": 196608}]}, 1.0)}, "196608 bytes read"),
        ({"incremental": Backup({"disks": []}, 1.0)}, "1 disks written to, 0 backed up"),
        ({"leftovers": GOOD.leftovers | {"vm_snapshots": ["x"]}}, "1 vm snapshots left"),
        ({"leftovers": GOOD.leftovers | {"plugged_vbds": ["x"]}}, "1 plugged vbds left"),
        ({"log": {"peak": {"host": 17}}}, "17 connections"),
        ({"comparisons": []}, "nothing was compared"),
    ],
)
def test_faults_are_found(changes: dict[str, Any], said: str) -> None:
    assert GOOD.faults() == []
    [fault] = dataclasses.replace(GOOD, **changes).faults()
    assert said in fault


def test_comparing_a_file_with_what_a_disk_held(tmp_path: Path) -> None:
    with SimulatedPool.start(plain_pool(vms=1, disks=1, disk_size=5 << 20)) as pool:
        listener, port = serve_control(pool)
        try:
            control = Control(f"http://127.0.0.1:{port}")
            [vm] = pool.vms()
            vdi = vm["disks"][0]["vdi"]
            held = bytearray(pool.content(vdi))
            file = tmp_path / "disk.img"
            file.write_bytes(held)
            assert control.first_difference(vdi, file) is None
            for position in (0, 70_000, len(held) - 1):
                held[position] ^= 1
                file.write_bytes(held)
                assert control.first_difference(vdi, file) == position
                held[position] ^= 1
            file.write_bytes(held[:-1])
            assert control.first_difference(vdi, file) == len(held) - 1
            file.write_bytes(held + b"x")
            assert control.first_difference(vdi, file) == len(held)
            with pytest.raises(SimulatorFailed, match="404"):
                control.first_difference("no-such-disk", file)
        finally:
            listener.stop()
    with pytest.raises(SimulatorFailed, match="does not answer"):
        control.get("/log")


def test_a_part_that_ends_is_named_with_its_last_line(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    stage = Stage(tmp_path, {})
    shell = shutil.which("sh")
    assert shell is not None
    process = stage.start("worker-1", [shell, "-c", "echo first; echo cannot go on; exit 3"])
    process.wait()
    with pytest.raises(DemoFailed, match="the worker-1 ended with 3: cannot go on"):
        stage.check_alive()


def test_a_missing_part_is_said(cbtfleet: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    done = cbtfleet("demo")
    assert done.code == 2
    assert "cbtfleet[embedded]" in done.said
