"""The doctor and XAPI's messages: from the oldest base that they matter for."""

from __future__ import annotations

from typing import Any

import pytest

from scheduler.checks.messages import messages_matter_since
from scheduler.pool_objects.ownership import TAG_DISK, TAG_REPOSITORY, TAG_RUN, TAG_SNAPSHOT

VBDS: dict[str, dict[str, Any]] = {
    "vbd-off": {"VM": "vm-off", "VDI": "disk-off"},
    "vbd-on": {"VM": "vm-on", "VDI": "disk-on"},
}


def live(uuid: str, *, tracked: bool = True) -> dict[str, Any]:
    return {"uuid": uuid, "cbt_enabled": tracked, "other_config": {}}


def base(disk: str, day: int, *, tracked: bool = True, tagged: bool = True) -> dict[str, Any]:
    uuid = f"base-{disk}-{day}"
    tag = {TAG_REPOSITORY: "repo", TAG_RUN: "run", TAG_SNAPSHOT: uuid, TAG_DISK: disk} if tagged else {}
    return {
        "uuid": uuid,
        "cbt_enabled": tracked,
        "other_config": tag,
        "snapshot_time": f"202601{day:02}T01:00:00Z",
    }


@pytest.mark.parametrize(
    ("bases", "since"),
    [
        ([base("disk-on", 1)], None),
        ([base("disk-on", 1), base("disk-off", 3)], "2026-01-03T01:00:00Z"),
        ([base("disk-off", 4), base("disk-off", 2), base("disk-off", 3)], "2026-01-02T01:00:00Z"),
        ([base("disk-on", 1, tracked=False), base("disk-off", 3)], "2026-01-01T01:00:00Z"),
        ([base("disk-untracked", 5)], "2026-01-05T01:00:00Z"),
        ([base("disk-off", 1, tagged=False), base("disk-off", 3)], "2026-01-03T01:00:00Z"),
        ([], None),
    ],
    ids=["VM on", "VM off", "oldest", "base untracked", "tracking off", "not ours", "no base"],
)
def test_messages_matter_since_the_oldest_base_that_is_in_doubt(
    bases: list[dict[str, Any]], since: str | None
) -> None:
    vms = {"vm-off": {"power_state": "Halted"}, "vm-on": {"power_state": "Running"}}
    disks = {uuid: live(uuid) for uuid in ("disk-off", "disk-on")}
    disks["disk-untracked"] = live("disk-untracked", tracked=False)
    disks |= {each["uuid"]: each for each in bases}
    assert messages_matter_since(vms, VBDS, disks) == since
