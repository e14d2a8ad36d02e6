"""Which drives are backed up, by the records alone."""

from __future__ import annotations

from typing import Any

import pytest

from scheduler.planning.disk_choice import Drive, choose_drives
from scheduler.policies.policy import Selector

VDI = {"uuid": "u-data", "name_label": "data 1", "tags": ["gold"], "type": "user"}
RUN = {"u-web": "web", "u-db": "db"}


def drive(place: str = "0", ref: str = "data", *, holders: tuple[str, ...] = (), **vdi: Any) -> Drive:
    return Drive({"type": "Disk", "userdevice": place}, ref, {**VDI, **vdi}, {"type": "nfs"}, True, holders)


def reasons(*drives: Drive, vm: str = "u-web", **exclude: Any) -> list[str]:
    return [each.reason for each in choose_drives(drives, Selector(**exclude), vm, RUN)[1]]


def test_an_ordinary_disk_is_backed_up_and_fields_that_a_pool_does_not_have_are_no_reason() -> None:
    assert choose_drives([drive()], Selector(), "u-web", RUN) == ([drive()], [])


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"managed": False}, "managed = false"),
        ({"missing": True}, "missing = true"),
        ({"sharable": True}, "sharable = true"),
        ({"on_boot": "reset"}, "on_boot = reset"),
        ({"type": "cbt_metadata"}, "has no data"),
        ({"tags": ["cbtfleet:exclude"]}, "excluded by its tag cbtfleet:exclude"),
    ],
)
def test_a_disk_that_cannot_or_must_not_be_snapshotted(fields: dict[str, Any], said: str) -> None:
    [skipped] = choose_drives([drive(**fields)], Selector(), "u-web", RUN)[1]
    assert said in skipped.reason
    assert (skipped.ref, skipped.vdi, skipped.name) == ("data", "u-data", "data 1")


@pytest.mark.parametrize(
    ("exclude", "said"),
    [
        ({"tags": ("gold",)}, "excluded by its tag gold"),
        ({"names": ("swap*", "data *")}, "excluded by the policy, by its name (data *)"),
        ({"uuids": ("u-data",)}, "excluded by the policy, by its uuid"),
    ],
)
def test_disks_that_a_policy_excludes(exclude: dict[str, Any], said: str) -> None:
    assert reasons(drive(), **exclude) == [said]
    assert reasons(drive(uuid="u-2", name_label="root", tags=[]), **exclude) == []


def test_drives_that_hold_no_disk() -> None:
    cd = {"type": "CD", "userdevice": "3"}
    drives = [
        Drive(cd),
        Drive(cd, "iso", {"uuid": "u-iso", "name_label": "tools.iso"}),
        Drive({"type": "Disk", "userdevice": "4"}),
        Drive({"type": "Disk", "userdevice": "5"}, "gone"),
    ]
    chosen, skipped = choose_drives(drives, Selector(), "u-web", RUN)
    assert chosen == []
    assert [(each.ref, each.vdi, each.name, each.reason) for each in skipped] == [
        ("", None, "drive 3", "an empty CD drive"),
        ("", "u-iso", "tools.iso", "a CD drive"),
        ("", None, "drive 4", "an empty drive"),
        ("gone", None, "drive 5", "the pool no longer knows its disk"),
    ]
    assert reasons() == ["the VM has no disk"]


def test_a_disk_that_two_vms_have_is_backed_up_with_the_first_by_name() -> None:
    both = drive(holders=("u-db", "u-elsewhere"))
    assert reasons(both) == ['VM "db" has it too, and it is backed up with that']
    assert reasons(drive(holders=("u-web",)), vm="u-db") == []
    assert reasons(drive(holders=("u-elsewhere",))) == [], "that VM is not in this run"


def test_a_disk_that_is_attached_twice_is_backed_up_once_and_stays_in_the_snapshot() -> None:
    chosen, [skipped] = choose_drives([drive("0"), drive("7")], Selector(), "u-web", RUN)
    assert [each.place for each in chosen] == ["0"]
    assert (skipped.ref, skipped.reason) == ("", "it is attached twice, and backed up as drive 0")


def test_storage_that_takes_no_snapshots() -> None:
    plain = Drive({"type": "Disk", "userdevice": "0"}, "data", VDI, {"type": "rawhba"}, can_snapshot=False)
    assert reasons(plain) == ["its storage (type rawhba) takes no snapshots"]
