"""Records of a pool with one VM that has one disk, made by hand, as the doctor would have read them."""

from __future__ import annotations

from typing import Any

from scheduler.checks.pool_facts import PoolFacts
from scheduler.policies.policy import Policy
from workers.repository import DiskPoint, NewestDisks
from workers.settings import PoolSettings

POLICY = Policy.model_validate(
    {"pool": "lab", "include": {"tags": ["backup"]}, "schedule": "0 1 * * *", "window": {"end": "06:00"}}
)

LIVE = {
    "uuid": "live",
    "name_label": "data",
    "SR": "sr",
    "virtual_size": "1000",
    "type": "user",
    "cbt_enabled": True,
    "is_a_snapshot": False,
    "other_config": {},
}
BASE = LIVE | {"uuid": "base", "type": "cbt_metadata", "is_a_snapshot": True}


def facts(live: dict[str, Any], *, base: dict[str, Any] | None = None, **records: Any) -> PoolFacts:
    """A pool of one host, one VM and one disk, with its base unless it is told otherwise."""
    found = PoolFacts(
        "lab", PoolSettings.model_validate({"url": "https://lab", "username": "root", "password": "x"})
    )
    disks = {"live": LIVE | live}
    if base is not None:
        disks["base"] = BASE | base
    found.records = {
        "pool": {"pool": {"restrictions": {}}},
        "host": {"host": {"uuid": "host-1", "name_label": "host1", "metrics": "metrics"}},
        "host_metrics": {"metrics": {"live": True}},
        "SM": {"sm": {"type": "nfs", "features": {"VDI_CONFIG_CBT": "1", "VDI_SNAPSHOT": "1"}}},
        "SR": {"sr": {"name_label": "shared", "type": "nfs", "uuid": "sr-1"}},
        "PBD": {"pbd": {"host": "host", "SR": "sr", "currently_attached": True}},
        "VM": {
            "vm": {"uuid": "vm-1", "name_label": "web", "tags": ["backup"], "VBDs": ["vbd"]},
            "dom0": {"uuid": "dom0", "name_label": "dom0", "tags": [], "is_control_domain": True, "VBDs": []},
        },
        "VBD": {"vbd": {"VM": "vm", "VDI": "live", "type": "Disk", "empty": False, "userdevice": "0"}},
        "VDI": disks,
    } | records
    return found


def last_point(snapshot: str = "base", size: int = 1000) -> NewestDisks:
    point = DiskPoint("live", "data", "0", size, snapshot, "sr-1", "full", None, 0, 0, 0, ())
    return NewestDisks({"live": point}, (point,))
