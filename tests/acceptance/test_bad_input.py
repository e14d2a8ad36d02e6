"""Bad input gets one clear line, the right exit code, and leaves nothing behind."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.acceptance.conftest import Fleet, FleetMaker


def edit(fleet: Fleet, pattern: str, replacement: str) -> None:
    text = fleet.config.read_text()
    changed = re.sub(pattern, replacement, text, flags=re.MULTILINE)
    assert changed != text
    fleet.config.write_text(changed)


def assert_nothing_is_left(fleet: Fleet) -> None:
    left = fleet.simulator.leftovers()
    assert (left["vm_snapshots"], left["vdi_snapshots"], left["plugged_vbds"]) == ([], [], [])
    assert fleet.json("points")["points"] == []


def test_a_pool_that_cannot_be_entered(make_fleet: FleetMaker, tmp_path: Path) -> None:
    fleet = make_fleet(
        "file", simulator=("--hosts", "1", "--vms", "1", "--disks", "1", "--disk-size", "4MiB")
    )
    wrong = tmp_path / "wrong"
    wrong.write_text("not the password\n")
    right = fleet.config.read_text()
    edit(fleet, r"^password_file = .*", f'password_file = "{wrong}"')
    fleet.start_all(workers=1)
    result = fleet.backup(expect=1)
    assert result["status"] == "failed"
    assert "password" in result["error"] or "user" in result["error"]
    assert "not the password" not in str(result)
    fleet.stop_all()

    fleet.config.write_text(right)
    edit(fleet, r"^ca_file = .*", f'certificate_sha256 = "{"ab" * 32}"')
    fleet.start_all(workers=1)
    result = fleet.backup(expect=1)
    assert "certificate" in result["error"]
    fleet.stop_all()
    fleet.config.write_text(right)
    assert_nothing_is_left(fleet)


def test_a_vm_that_is_not_there(make_fleet: FleetMaker) -> None:
    fleet = make_fleet(
        "file", simulator=("--hosts", "1", "--vms", "1", "--disks", "1", "--disk-size", "4MiB")
    )
    fleet.start_all(workers=1)
    result = fleet.backup("no-such-vm", expect=1)
    assert result["status"] == "failed"
    assert 'no VM "no-such-vm"' in result["error"]
    assert_nothing_is_left(fleet)


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (
            {"xapi": "VDI.get_nbd_info", "failure": ["VDI_INCOMPATIBLE_TYPE", "OpaqueRef:x", "CBT metadata"]},
            "NBD",
        ),
        ("rotated certificate", "certificate"),
        ("no purpose", "purpose"),
    ],
)
def test_a_disk_that_cannot_be_exported(
    make_fleet: FleetMaker, fault: dict[str, object] | str, said: str
) -> None:
    fleet = make_fleet(
        "file", simulator=("--hosts", "1", "--vms", "1", "--disks", "1", "--disk-size", "4MiB")
    )
    if fault == "rotated certificate":
        fleet.simulator.post("/rotate-certificate", {"host": fleet.simulator.facts["hosts"][0]["uuid"]})
        edit(fleet, r"^ca_file = .*", "verify_tls = false")
    elif fault == "no purpose":
        fleet.simulator.post("/purpose", {"purpose": None})
    else:
        assert isinstance(fault, dict)
        fleet.simulator.post("/fault", {**fault, "count": 99})
    fleet.start_all(workers=1)
    result = fleet.backup(expect=1)
    [row] = result["disks"]
    assert result["status"] == "failed"
    assert row["point"] is None
    assert said in row["error"], row
    assert fleet.simulator.vms[0]["name"] in row["error"]
    assert_nothing_is_left(fleet)
