"""What the storage manager does to disks: no permission or state is checked here, that is XAPI's part."""

from __future__ import annotations

from typing import Any

from infra.simulator.failures import sm_failure
from infra.simulator.state import State
from infra.simulator.vdi_content import Content

FILE_SRS = {"ext", "nfs", "smb", "xfs"}
"""Their driver unlinks a cbt_metadata log before it could be relinked."""

MAX_CHAIN = 30
"""VHDs in a chain; snapshots whose data are destroyed are coalesced and do not count."""

_COPIED_TO_SNAPSHOT = (
    "name_label", "name_description", "type", "sharable", "other_config", "xenstore_data",
    "on_boot", "tags", "SR",
)  # fmt: skip


def create_vdi(state: State, content: Content, **values: Any) -> str:
    vdi = state.database.create("VDI", virtual_size=content.size, physical_utilisation=content.size, **values)
    uuid = state.database.get("VDI", vdi)["uuid"]
    state.database.update("VDI", vdi, location=uuid)
    state.contents[vdi] = content
    if values.get("cbt_enabled"):
        state.cbt.enable(uuid, content.size)
    return vdi


def snapshot_vdi(state: State, vdi: str) -> str:
    """The data are copied, the CBT log changes hands. Raises Failure when a fault says so."""
    database = state.database
    record = database.get("VDI", vdi)
    uuid = record["uuid"]
    if state.faults.storage("no_space", uuid):
        raise sm_failure(44, "No space left on device")
    fault = state.faults.storage("snapshot", uuid)
    if fault:
        raise sm_failure(fault.number, "scripted", record["SR"], vdi)
    if len(_with_data(state, vdi)) >= MAX_CHAIN:
        raise sm_failure(109, f"The snapshot chain of {uuid} is longer than {MAX_CHAIN}")
    content = state.contents[vdi].copy()
    tracked = bool(record["cbt_enabled"]) and uuid in state.cbt
    lost = tracked and state.faults.storage("cbt_snapshot", uuid) is not None
    copied = {field: record[field] for field in _COPIED_TO_SNAPSHOT}
    snapshot = create_vdi(
        state,
        content,
        **copied,
        is_a_snapshot=True,
        snapshot_of=vdi,
        snapshot_time=state.now(),
        sm_config={"vhd-parent": database.new_uuid()},
    )
    snapshot_uuid = database.get("VDI", snapshot)["uuid"]
    state.history[snapshot_uuid] = content
    if lost:
        _lose_cbt(state, vdi, "VDI_CBT_SNAPSHOT_FAILED")
    elif tracked:
        state.cbt.snapshot(uuid, snapshot_uuid)
        database.update("VDI", snapshot, cbt_enabled=True)
    return snapshot


def clone_vdi(state: State, vdi: str, sr: str | None = None) -> str:
    """A writable copy, without CBT, on the same SR or on another."""
    record = state.database.get("VDI", vdi)
    copied = {field: record[field] for field in _COPIED_TO_SNAPSHOT}
    return create_vdi(state, state.contents[vdi].copy(), **{**copied, "SR": sr or record["SR"]})


def enable_cbt(state: State, vdi: str) -> None:
    record = state.database.get("VDI", vdi)
    if record["sm_config"].get("type") == "raw":
        raise sm_failure(66, "Raw VDIs have no changed block tracking")
    state.cbt.enable(record["uuid"], state.contents[vdi].size)
    state.database.update("VDI", vdi, cbt_enabled=True)


def disable_cbt(state: State, vdi: str) -> None:
    """Deletes the live log only: the snapshots stay cbt_enabled."""
    state.cbt.disable(state.database.get("VDI", vdi)["uuid"])
    state.database.update("VDI", vdi, cbt_enabled=False)


def resize_vdi(state: State, vdi: str, size: int) -> None:
    """Grows. Raises Failure for a smaller size."""
    uuid = state.database.get("VDI", vdi)["uuid"]
    if size < state.contents[vdi].size:
        raise sm_failure(79, "VHD images cannot shrink")
    state.contents[vdi].grow(size)
    if uuid in state.cbt and state.faults.storage("cbt_resize", uuid):
        _lose_cbt(state, vdi, "VDI_CBT_RESIZE_FAILED")
    state.cbt.grow(uuid, size)
    state.database.update("VDI", vdi, virtual_size=size)


def destroy_data(state: State, vdi: str) -> None:
    """The data go at once, the log stays."""
    state.contents.pop(vdi, None)
    state.database.update("VDI", vdi, physical_utilisation=0)


def destroy_vdi(state: State, vdi: str) -> None:
    """The VDI goes; its log is merged into its child's, but for cbt_metadata on file SRs."""
    database = state.database
    record = database.get("VDI", vdi)
    unlinked_first = record["type"] == "cbt_metadata" and database.get("SR", record["SR"])["type"] in FILE_SRS
    state.cbt.remove(record["uuid"], relink=not unlinked_first)
    state.contents.pop(vdi, None)
    database.delete("VDI", vdi)


def scan(state: State, sr: str) -> None:
    """Afterwards the virtual_size of a cbt_metadata VDI is that of its log file (file SRs) or 0 (LVM)."""
    database = state.database
    on_files = database.get("SR", sr)["type"] in FILE_SRS
    for vdi in database.find("VDI", SR=sr, type="cbt_metadata"):
        record = database.get("VDI", vdi)
        size = 0
        if on_files and record["uuid"] in state.cbt:
            size = 4096 + state.cbt[record["uuid"]].bitmap_length
        database.update("VDI", vdi, virtual_size=size)


def activate_for_writing(state: State, vdi: str) -> None:
    """A VM starts: an inconsistent log means that CBT is switched off, with a message and no error."""
    uuid = state.database.get("VDI", vdi)["uuid"]
    if uuid in state.cbt and not state.cbt[uuid].consistent:
        _lose_cbt(state, vdi, "VDI_CBT_METADATA_INCONSISTENT")
    if uuid in state.cbt:
        state.cbt[uuid].consistent = False


def deactivate(state: State, vdi: str) -> None:
    uuid = state.database.get("VDI", vdi)["uuid"]
    if uuid in state.cbt:
        state.cbt[uuid].consistent = True


def _with_data(state: State, vdi: str) -> list[str]:
    return [ref for ref in state.database.find("VDI", snapshot_of=vdi) if ref in state.contents]


def attached_rw(state: State, vdi: str) -> bool:
    vbds = state.database.find("VBD", VDI=vdi, currently_attached=True, mode="RW")
    return bool(vbds)


def _lose_cbt(state: State, vdi: str, message: str) -> None:
    disable_cbt(state, vdi)
    post_message(state, message, "VDI", state.database.get("VDI", vdi)["uuid"])


def post_message(state: State, name: str, cls: str, uuid: str) -> str:
    return state.database.create("message", name=name, cls=cls, obj_uuid=uuid, timestamp=state.now())
