"""Calls on virtual disks."""

from __future__ import annotations

from infra.simulator import storage
from infra.simulator.calls.registry import Context, call, record_argument
from infra.simulator.failures import Failure, sm_failure
from infra.simulator.gate import check_reachable, sr_operation, vbds_in_the_way, vdi_operation
from infra.simulator.vdi_content import Content

_MANDATORY = ("SR", "virtual_size", "type", "sharable", "read_only", "other_config")
_GIVEN = (
    "SR",
    "type",
    "sharable",
    "read_only",
    "other_config",
    "name_label",
    "name_description",
    "tags",
    "xenstore_data",
    "sm_config",
    "on_boot",
)


@call("VDI.snapshot", "vm-admin", asynchronous=True)
def snapshot(context: Context, vdi: str, driver_params: dict = {}) -> str:  # type: ignore[type-arg]  # noqa: B006
    with vdi_operation(context, vdi, "snapshot"):
        return storage.snapshot_vdi(context.state, vdi)


@call("VDI.clone", "vm-admin", asynchronous=True)
def clone(context: Context, vdi: str, driver_params: dict = {}) -> str:  # type: ignore[type-arg]  # noqa: B006
    with vdi_operation(context, vdi, "clone"):
        return storage.clone_vdi(context.state, vdi)


@call("VDI.copy", "vm-admin", asynchronous=True)
def copy(context: Context, vdi: str, sr: str) -> str:
    context.state.database.get("SR", sr)
    with vdi_operation(context, vdi, "copy"):
        return storage.clone_vdi(context.state, vdi, sr)


@call("VDI.pool_migrate", "vm-power-admin", asynchronous=True)
def pool_migrate(context: Context, vdi: str, sr: str, options: dict) -> str:  # type: ignore[type-arg]
    """To another SR, with the VM running or not: not with CBT on. The moved disk is a new VDI."""
    database = context.state.database
    database.get("SR", sr)
    if database.get("VDI", vdi)["cbt_enabled"]:
        raise Failure("VDI_CBT_ENABLED", vdi)
    with vdi_operation(context, vdi, "mirror"):
        moved = storage.clone_vdi(context.state, vdi, sr)
        for vbd in database.find("VBD", VDI=vdi):
            database.update("VBD", vbd, VDI=moved)
    storage.destroy_vdi(context.state, vdi)
    return moved


@call("VDI.create", "vm-admin", asynchronous=True)
def create(context: Context, args: dict) -> str:  # type: ignore[type-arg]
    missing = [field for field in _MANDATORY if field not in args]
    if missing:
        raise Failure("INTERNAL_ERROR", f"Not_found: field {missing[0]} of a VDI record")
    state, record = context.state, record_argument("VDI", args)
    rounding = state.spec.size_rounding
    size = -(-record["virtual_size"] // rounding) * rounding
    state.database.get("SR", record["SR"])
    if size <= 0:
        raise sm_failure(79, "Size must be positive")
    with sr_operation(context, record["SR"], "vdi_create"):
        values = {field: record[field] for field in _GIVEN if field in record}
        return storage.create_vdi(state, Content.new(size), **values)


@call("VDI.resize", "vm-admin", asynchronous=True)
def resize(context: Context, vdi: str, size: int) -> None:
    rounding = context.state.spec.size_rounding
    with vdi_operation(context, vdi, "resize"):
        storage.resize_vdi(context.state, vdi, -(-size // rounding) * rounding)


@call("VDI.destroy", "vm-admin", asynchronous=True)
def destroy(context: Context, vdi: str) -> None:
    state = context.state
    with vdi_operation(context, vdi, "destroy"):
        for vbd in vbds_in_the_way(state, vdi, attached=False):
            state.database.delete("VBD", vbd)
        storage.destroy_vdi(state, vdi)


@call("VDI.data_destroy", "vm-admin", asynchronous=True)
def data_destroy(context: Context, vdi: str) -> None:
    """The type changes first; VBDs have 4 s to be gone, else it changes back."""
    state = context.state
    with vdi_operation(context, vdi, "data_destroy"):
        if state.database.get("VDI", vdi)["type"] == "cbt_metadata":
            return
        before = state.database.get("VDI", vdi)["type"]
        state.database.update("VDI", vdi, type="cbt_metadata")
        free = False
        try:
            free = state.wait_for(
                lambda: not vbds_in_the_way(state, vdi, attached=False), state.spec.timing.data_destroy_wait
            )
        finally:
            if not free:
                state.database.update("VDI", vdi, type=before)
        if not free:
            raise Failure("VDI_IN_USE", vdi, "data_destroy")
        storage.destroy_data(state, vdi)
    if state.spec.scan_after_data_destroy:
        storage.scan(state, state.database.get("VDI", vdi)["SR"])


@call("VDI.enable_cbt", "vm-admin", asynchronous=True)
def enable_cbt(context: Context, vdi: str) -> None:
    state = context.state
    with vdi_operation(context, vdi, "enable_cbt"):
        if state.database.get("pool", state.pool)["restrictions"].get("restrict_cbt") == "true":
            raise Failure("LICENCE_RESTRICTION", "CBT")
        if not state.database.get("VDI", vdi)["cbt_enabled"]:
            storage.enable_cbt(state, vdi)


@call("VDI.disable_cbt", "vm-admin", asynchronous=True)
def disable_cbt(context: Context, vdi: str) -> None:
    state = context.state
    with vdi_operation(context, vdi, "disable_cbt"):
        if state.database.get("VDI", vdi)["cbt_enabled"]:
            storage.disable_cbt(state, vdi)


@call("VDI.list_changed_blocks", "vm-operator", asynchronous=True)
def list_changed_blocks(context: Context, vdi_from: str, vdi_to: str) -> str:
    """Only `vdi_to` is gated and held."""
    state = context.state
    first = state.database.get("VDI", vdi_from)
    with vdi_operation(context, vdi_to, "list_changed_blocks"):
        last = state.database.get("VDI", vdi_to)
        if first["SR"] != last["SR"]:
            raise Failure("INTERNAL_ERROR", "VDIs are on different SRs")
        padding = state.faults.storage("cbt_padding", last["uuid"]) is not None
        return state.cbt.changed_base64(first["uuid"], last["uuid"], padding=padding)


@call("VDI.set_name_label", "vm-admin", asynchronous=True)
def set_name_label(context: Context, vdi: str, value: str) -> None:
    """Runs on the SR's master, so the SR must be there (other_config is the database's alone)."""
    check_reachable(context.state, context.state.database.get("VDI", vdi)["SR"])
    context.state.database.update("VDI", vdi, name_label=value)
