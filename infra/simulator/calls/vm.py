"""Calls on VMs and their disks' attachments."""

from __future__ import annotations

from typing import Any

from infra.simulator import attachments, storage
from infra.simulator.calls import vdi as vdi_calls
from infra.simulator.calls.registry import Context, call, record_argument
from infra.simulator.failures import Failure
from infra.simulator.schema import NULL
from infra.simulator.state import State

_NOT_COPIED = {"uuid", "snapshots", "VBDs", "current_operations", "resident_on", "domid"}


@call("VM.snapshot", "vm-power-admin", asynchronous=True)
def snapshot(context: Context, vm: str, new_name: str, ignore_vdis: list = []) -> str:  # type: ignore[type-arg]  # noqa: B006
    """Disks one after another; when one fails, the snapshots made so far are removed."""
    database = context.state.database
    record = database.get("VM", vm)
    if record["is_control_domain"]:
        raise Failure("OPERATION_NOT_ALLOWED", "This operation is not allowed on dom0")
    _expect_power(context.state, vm, {"Halted", "Running", "Suspended"})
    made: dict[str, str] = {}
    try:
        for vbd in database.find("VBD", VM=vm, type="Disk"):
            disk = database.get("VBD", vbd)["VDI"]
            if disk != NULL and disk not in ignore_vdis:
                made[vbd] = vdi_calls.snapshot(context, disk)
    except Failure:
        for disk in made.values():
            storage.destroy_vdi(context.state, disk)
        raise
    values = {field: value for field, value in record.items() if field not in _NOT_COPIED}
    copy = database.create(
        "VM",
        **{
            **values,
            "name_label": new_name,
            "power_state": "Halted",
            "is_a_template": True,
            "is_a_snapshot": True,
            "snapshot_of": vm,
            "snapshot_time": context.state.now(),
            "snapshot_info": {"power-state-info": record["power_state"]},
            "parent": NULL,
        },
    )
    for vbd in database.find("VBD", VM=vm):
        if vbd in made or database.get("VBD", vbd)["type"] == "CD":
            _copy_vbd(context.state, vbd, copy, made.get(vbd))
    return copy


@call("VM.destroy", "vm-admin", asynchronous=True)
def destroy(context: Context, vm: str) -> None:
    """Records and VBDs only: the disks stay."""
    database = context.state.database
    _expect_power(context.state, vm, {"Halted"})
    for vbd in database.find("VBD", VM=vm):
        database.delete("VBD", vbd)
    database.delete("VM", vm)


@call("VM.start", "vm-operator", asynchronous=True)
def start(context: Context, vm: str, start_paused: bool, force: bool) -> None:
    start_on(context, vm, context.state.master)


@call("VM.start_on", "vm-power-admin", asynchronous=True)
def start_on(context: Context, vm: str, host: str, start_paused: bool = False, force: bool = False) -> None:
    database = context.state.database
    database.get("host", host)
    _expect_power(context.state, vm, {"Halted"})
    if database.get("VM", vm)["is_a_template"]:
        raise Failure("VM_IS_TEMPLATE", vm)
    for vbd in database.find("VBD", VM=vm, empty=False):
        attachments.plug(context.state, vbd, host, context.task)
    database.update("VM", vm, power_state="Running", resident_on=host, domid=1)
    storage.post_message(context.state, "VM_STARTED", "VM", database.get("VM", vm)["uuid"])


@call("VM.clean_shutdown", "vm-operator", asynchronous=True)
def clean_shutdown(context: Context, vm: str) -> None:
    _expect_power(context.state, vm, {"Running"})
    halt(context.state, vm, context.task)
    uuid = context.state.database.get("VM", vm)["uuid"]
    storage.post_message(context.state, "VM_SHUTDOWN", "VM", uuid)


@call("VM.hard_shutdown", "vm-operator", asynchronous=True)
def hard_shutdown(context: Context, vm: str) -> None:
    clean_shutdown(context, vm)


def halt(state: State, vm: str, task: str) -> None:
    """The guest is gone and its disks are detached cleanly."""
    for vbd in state.database.find("VBD", VM=vm, currently_attached=True):
        attachments.unplug(state, vbd, task)
    state.database.update("VM", vm, power_state="Halted", resident_on=NULL, domid=-1)


@call("VM.revert", "vm-power-admin", asynchronous=True)
def revert(context: Context, snapshot: str) -> None:
    """The fallback that VHD SRs take: each disk is replaced by a clone of its snapshot, without CBT.

    The snapshots of the replaced disk claim to be the new disk's from then on.
    """
    database = context.state.database
    vm = database.get("VM", snapshot)["snapshot_of"]
    if not database.exists("VM", vm):
        raise Failure("VM_REVERT_FAILED", snapshot)
    if database.get("VM", vm)["power_state"] == "Running":
        halt(context.state, vm, context.task)
    for vbd in database.find("VBD", VM=snapshot, type="Disk"):
        held = database.get("VBD", vbd)
        new = vdi_calls.clone(context, held["VDI"])
        for live in database.find("VBD", VM=vm, userdevice=held["userdevice"]):
            old = database.get("VBD", live)["VDI"]
            for sibling in database.find("VDI", snapshot_of=old):
                database.update("VDI", sibling, snapshot_of=new)
            database.update("VBD", live, VDI=new)
            storage.destroy_vdi(context.state, old)


@call("VBD.create", "vm-admin", asynchronous=True)
def vbd_create(context: Context, args: dict) -> str:  # type: ignore[type-arg]
    database = context.state.database
    known = record_argument("VBD", args)
    database.get("VM", known.get("VM", ""))
    if not known.get("empty"):
        database.get("VDI", known.get("VDI", ""))
    if database.find("VBD", VM=known["VM"], userdevice=known.get("userdevice", "0")):
        raise Failure("DEVICE_ALREADY_EXISTS", known.get("userdevice", "0"))
    return database.create("VBD", **known)


@call("VBD.plug", "vm-admin", asynchronous=True)
def vbd_plug(context: Context, vbd: str) -> None:
    database = context.state.database
    vm = database.get("VM", database.get("VBD", vbd)["VM"])
    if vm["power_state"] != "Running":
        raise Failure(
            "VM_BAD_POWER_STATE", database.get("VBD", vbd)["VM"], "running", vm["power_state"].lower()
        )
    attachments.plug(context.state, vbd, vm["resident_on"], context.task)


@call("VBD.unplug", "vm-admin", asynchronous=True)
def vbd_unplug(context: Context, vbd: str) -> None:
    if not context.state.database.get("VBD", vbd)["currently_attached"]:
        raise Failure("DEVICE_ALREADY_DETACHED", vbd)
    if vbd in context.state.opened_vbds:
        raise Failure("DEVICE_DETACH_REJECTED", "VBD", vbd, "Device in use; refusing to close")
    attachments.unplug(context.state, vbd, context.task)


@call("VBD.destroy", "vm-admin", asynchronous=True)
def vbd_destroy(context: Context, vbd: str) -> None:
    if context.state.database.get("VBD", vbd)["currently_attached"]:
        raise Failure("OPERATION_NOT_ALLOWED", "VBD is still attached")
    context.state.database.delete("VBD", vbd)


def _copy_vbd(state: State, vbd: str, vm: str, disk: str | None) -> str:
    record: dict[str, Any] = dict(state.database.get("VBD", vbd))
    del record["uuid"]
    record.update(VM=vm, VDI=disk or NULL, currently_attached=False, current_operations={})
    return state.database.create("VBD", **record)


def _expect_power(state: State, vm: str, allowed: set[str]) -> None:
    actual = state.database.get("VM", vm)["power_state"]
    if actual not in allowed:
        raise Failure("VM_BAD_POWER_STATE", vm, min(allowed).lower(), actual.lower())
