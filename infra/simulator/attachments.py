"""Attaching disks: VBDs of guests, and those that xapi-nbd plugs into a host's control domain."""

from __future__ import annotations

from infra.simulator.failures import Failure
from infra.simulator.gate import check_host, vbd_operation, wait_for_turn
from infra.simulator.state import State
from infra.simulator.storage import activate_for_writing, attached_rw, deactivate

DOM0_DISKS = 256
"""VBDs that a control domain can have at most."""


def plug(state: State, vbd: str, host: str, task: str) -> None:
    """Attaches a VBD on a host. Raises Failure when that host cannot, or not in this mode."""
    database = state.database
    record = database.get("VBD", vbd)
    vdi = record["VDI"]
    wait_for_turn(state, lambda: _check_idle(state, vdi))
    disk = database.get("VDI", vdi)
    if disk["type"] == "cbt_metadata":
        raise Failure("VDI_INCOMPATIBLE_TYPE", vdi, "CBT metadata")
    if not disk["sharable"] and (
        attached_rw(state, vdi)
        or (record["mode"] == "RW" and database.find("VBD", VDI=vdi, currently_attached=True))
    ):
        raise Failure("VDI_IN_USE", vdi, "attach")
    if not database.find("PBD", host=host, SR=disk["SR"], currently_attached=True):
        raise Failure("SR_NO_PBDS", disk["SR"])
    check_host(state, host)
    with vbd_operation(state, vbd, "plug", task):
        state.pause(state.spec.timing.plug_delay)
        database.update("VBD", vbd, currently_attached=True)
        if record["mode"] == "RW":
            activate_for_writing(state, vdi)


def unplug(state: State, vbd: str, task: str, seconds: float = 0.0) -> None:
    record = state.database.get("VBD", vbd)
    with vbd_operation(state, vbd, "unplug", task):
        state.pause(seconds)
        state.database.update("VBD", vbd, currently_attached=False)
        if record["mode"] == "RW":
            deactivate(state, record["VDI"])


def attach_to_dom0(state: State, host: str, vdi_uuid: str, task: str, mode: str = "RO") -> str:
    """VBD.create and plug: what xapi-nbd does for a connection, read-only. Raises Failure."""
    database = state.database
    dom0 = database.get("host", host)["control_domain"]
    vdi = database.by_uuid("VDI", vdi_uuid)
    taken = {database.get("VBD", vbd)["userdevice"] for vbd in database.find("VBD", VM=dom0)}
    free = next((str(number) for number in range(DOM0_DISKS) if str(number) not in taken), None)
    if free is None:
        raise Failure("DEVICE_ALREADY_EXISTS", "no free device in the control domain")
    vbd = database.create("VBD", VM=dom0, VDI=vdi, userdevice=free, device=f"xvd{free}", mode=mode)
    try:
        plug(state, vbd, host, task)
    except BaseException:
        if database.exists("VBD", vbd):
            database.delete("VBD", vbd)
        raise
    return vbd


def detach_from_dom0(state: State, vbd: str, task: str, seconds: float) -> None:
    """Unplugs and destroys; nothing to do when somebody else has removed it."""
    if state.database.exists("VBD", vbd):
        unplug(state, vbd, task, seconds)
    if state.database.exists("VBD", vbd):
        state.database.delete("VBD", vbd)


def _check_idle(state: State, vdi: str) -> None:
    for task, operation in state.database.get("VDI", vdi)["current_operations"].items():
        raise Failure("OTHER_OPERATION_IN_PROGRESS", "VDI", vdi, operation, task)
