"""What an observer wants to know of the pool: what is there, and what a backup has left behind."""

from __future__ import annotations

from typing import Any

from infra.simulator.schema import NULL
from infra.simulator.state import State


def leftovers(state: State) -> dict[str, Any]:
    """Snapshots, plugged NBD disks, sessions and tasks that exist now."""
    database = state.database
    with state.lock:
        vm_snapshots = [database.get("VM", ref)["uuid"] for ref in database.find("VM", is_a_snapshot=True)]
        vdi_snapshots = []
        for ref in database.find("VDI", is_a_snapshot=True):
            record = database.get("VDI", ref)
            parent = record["snapshot_of"]
            vdi_snapshots.append(
                {
                    "uuid": record["uuid"],
                    "snapshot_of": database.get("VDI", parent)["uuid"]
                    if database.exists("VDI", parent)
                    else None,
                    "type": record["type"],
                    "name": record["name_label"],
                }
            )
        dom0 = set(database.find("VM", is_control_domain=True))
        vbds = [database.get("VBD", ref) for ref in database.refs("VBD")]
        return {
            "vm_snapshots": vm_snapshots,
            "vdi_snapshots": vdi_snapshots,
            "plugged_vbds": [vbd["uuid"] for vbd in vbds if vbd["VM"] in dom0],
            "sessions": len(database.refs("session")),
            "tasks": len(database.refs("task")),
        }


def sessions(state: State) -> list[dict[str, str]]:
    """Who is logged in. XAPI itself tells nobody of other sessions; references, as credentials, stay out."""
    with state.lock:
        records = [state.database.get("session", ref) for ref in state.database.refs("session")]
        return [
            {"uuid": each["uuid"], "originator": each["originator"], "user": each["auth_user_name"]}
            for each in records
        ]


def machines(state: State) -> list[dict[str, Any]]:
    """The VMs that are neither control domains nor snapshots, with their disks."""
    database = state.database
    with state.lock:
        found = []
        for ref in database.find("VM", is_control_domain=False, is_a_snapshot=False):
            vm = database.get("VM", ref)
            vbds = [database.get("VBD", vbd) for vbd in database.find("VBD", VM=ref, type="Disk")]
            disks = [database.get("VDI", vbd["VDI"]) for vbd in vbds if vbd["VDI"] != NULL]
            found.append(
                {
                    "uuid": vm["uuid"],
                    "name": vm["name_label"],
                    "tags": list(vm["tags"]),
                    "power_state": vm["power_state"],
                    "disks": [
                        {
                            "vdi": disk["uuid"],
                            "name": disk["name_label"],
                            "size": disk["virtual_size"],
                            "cbt": disk["cbt_enabled"],
                        }
                        for disk in disks
                    ],
                }
            )
        return found
