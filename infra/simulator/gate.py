"""What XAPI checks before an operation on a VDI or SR, in its order, and the waiting that goes with it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from infra.simulator.calls.registry import Context
from infra.simulator.failures import Failure
from infra.simulator.state import State

_CBT = "VDI_CONFIG_CBT"
_FEATURES = {
    "snapshot": "VDI_SNAPSHOT",
    "clone": "VDI_CLONE",
    "copy": None,
    "mirror": "VDI_MIRROR",
    "resize": "VDI_RESIZE",
    "destroy": "VDI_DELETE",
    "enable_cbt": _CBT,
    "disable_cbt": _CBT,
    "data_destroy": _CBT,
    "list_changed_blocks": _CBT,
}
_LIVE = {"snapshot", "mirror", "enable_cbt", "disable_cbt", "data_destroy"}
"""Not refused because of an attached VBD (data_destroy waits for it instead)."""
_ANY_TYPE = {"destroy", "data_destroy", "list_changed_blocks", "enable_cbt", "disable_cbt"}
_MAX_WAITING = 100


@contextmanager
def vdi_operation(context: Context, vdi: str, operation: str) -> Iterator[None]:
    """Waits its turn, checks, and holds the VDI and its SR while the body runs. Raises Failure."""
    state = context.state
    wait_for_turn(state, lambda: check_vdi(state, vdi, operation))
    sr = state.database.get("VDI", vdi)["SR"]
    check_reachable(state, sr)
    with _current(state, "VDI", vdi, operation, context.task), sr_busy(context, sr, f"vdi_{operation}"):
        state.pause(state.spec.timing.operation_delay)
        yield


@contextmanager
def sr_operation(context: Context, sr: str, operation: str) -> Iterator[None]:
    """The same for an operation on the SR itself: scan, or the creation of a VDI."""
    state = context.state
    wait_for_turn(state, lambda: _check_sr_idle(state, sr))
    check_reachable(state, sr)
    with sr_busy(context, sr, operation):
        state.pause(state.spec.timing.operation_delay)
        yield


def wait_for_turn(state: State, check: Any) -> None:
    """OTHER_OPERATION_IN_PROGRESS is retried here, inside xapi, for up to two hours: callers just block."""
    busy: list[Failure] = []

    def ready() -> bool:
        try:
            check()
        except Failure as failure:
            if failure.code != "OTHER_OPERATION_IN_PROGRESS":
                raise
            busy[:] = [failure]
            return False
        return True

    if ready():
        return
    if state.waiting >= _MAX_WAITING:
        raise Failure("TOO_MANY_PENDING_TASKS")
    with state.waiting_call():
        if not state.wait_for(ready, state.spec.timing.in_progress_retry):
            raise busy[0]


def check_vdi(state: State, vdi: str, operation: str) -> None:
    """The common gate. Raises Failure, the first that applies."""
    database = state.database
    record = database.get("VDI", vdi)
    feature = _FEATURES[operation]
    if state.rolling_upgrade and feature == _CBT:
        raise Failure("NOT_SUPPORTED_DURING_UPGRADE")
    if feature is not None and feature not in sr_features(state, record["SR"]):
        raise Failure("SR_OPERATION_NOT_SUPPORTED", record["SR"])
    _check_sr_idle(state, record["SR"])
    for task, current in record["current_operations"].items():
        if current != "copy":
            raise Failure("OTHER_OPERATION_IN_PROGRESS", "VDI", vdi, current, task)
        if operation == "snapshot":
            raise Failure("OPERATION_NOT_ALLOWED", f"VDI is being copied: {vdi}")
    attached = vbds_in_the_way(state, vdi, attached=True)
    if attached and operation not in _LIVE:
        raise Failure("VDI_IN_USE", vdi, operation)
    for vbd in database.find("VBD", VDI=vdi):
        for task, current in database.get("VBD", vbd)["current_operations"].items():
            raise Failure("OTHER_OPERATION_IN_PROGRESS", "VBD", vbd, current, task)
    if record["type"] == "cbt_metadata" and operation not in _ANY_TYPE:
        raise Failure("VDI_INCOMPATIBLE_TYPE", vdi, "CBT metadata")
    _check_special(state, vdi, record, operation)


def _check_special(state: State, vdi: str, record: dict[str, Any], operation: str) -> None:
    if operation == "snapshot":
        if record["sharable"]:
            raise Failure("VDI_IS_SHARABLE", vdi)
        if record["on_boot"] == "reset":
            raise Failure("VDI_ON_BOOT_MODE_INCOMPATIBLE_WITH_OPERATION")
    if operation in {"enable_cbt", "disable_cbt"}:
        if record["is_a_snapshot"]:
            raise Failure("OPERATION_NOT_ALLOWED", f"VDI is a snapshot: {vdi}")
        if record["type"] not in {"user", "system"}:
            raise Failure("VDI_INCOMPATIBLE_TYPE", vdi, _type_name(record["type"]))
    if operation == "data_destroy":
        if not record["is_a_snapshot"]:
            raise Failure("OPERATION_NOT_ALLOWED", f"VDI is not a snapshot: {vdi}")
        if not record["cbt_enabled"]:
            raise Failure("VDI_NO_CBT_METADATA", vdi)
    if operation in {"snapshot", "destroy"} and not record["managed"]:
        raise Failure("VDI_NOT_MANAGED", vdi)


def vbds_in_the_way(state: State, vdi: str, *, attached: bool) -> list[str]:
    """The VDI's VBDs (or only the attached ones) but those of VM snapshots, which never count as attached."""
    database = state.database
    found = database.find("VBD", VDI=vdi)
    if not attached:
        return found
    return [
        vbd
        for vbd in found
        if database.get("VBD", vbd)["currently_attached"]
        and not database.get("VM", database.get("VBD", vbd)["VM"])["is_a_snapshot"]
    ]


def sr_features(state: State, sr: str) -> dict[str, int]:
    kind = state.database.get("SR", sr)["type"]
    managers = state.database.find("SM", type=kind)
    return dict(state.database.get("SM", managers[0])["features"]) if managers else {}


def check_reachable(state: State, sr: str) -> None:
    """A host must be able to do it: the master for a shared SR, any host with the SR plugged otherwise."""
    database = state.database
    plugged = [
        database.get("PBD", pbd)["host"] for pbd in database.find("PBD", SR=sr, currently_attached=True)
    ]
    if database.get("SR", sr)["shared"]:
        plugged = [host for host in plugged if host == state.master]
    if not plugged:
        raise Failure("SR_NO_PBDS", sr)
    check_host(state, plugged[0])


def check_host(state: State, host: str) -> None:
    """Raises Failure HOST_OFFLINE or CANNOT_CONTACT_HOST."""
    if not state.is_live(host):
        raise Failure("HOST_OFFLINE", host)
    if host in state.unreachable:
        raise Failure("CANNOT_CONTACT_HOST", host)


@contextmanager
def sr_busy(context: Context, sr: str, operation: str) -> Iterator[None]:
    with _current(context.state, "SR", sr, operation, context.task):
        yield


@contextmanager
def _current(state: State, cls: str, ref: str, operation: str, task: str) -> Iterator[None]:
    operations = {**state.database.get(cls, ref)["current_operations"], task: operation}
    state.database.update(cls, ref, current_operations=operations)
    try:
        yield
    finally:
        if state.database.exists(cls, ref):
            left = dict(state.database.get(cls, ref)["current_operations"])
            left.pop(task, None)
            state.database.update(cls, ref, current_operations=left)


def vbd_operation(state: State, vbd: str, operation: str, task: str) -> Any:
    """Marks a plug or unplug in progress, which makes operations on the VDI wait."""
    return _current(state, "VBD", vbd, operation, task)


def _check_sr_idle(state: State, sr: str) -> None:
    for task, current in state.database.get("SR", sr)["current_operations"].items():
        raise Failure("OTHER_OPERATION_IN_PROGRESS", "SR", sr, current, task)


def _type_name(kind: str) -> str:
    return "CBT metadata" if kind == "cbt_metadata" else kind.replace("_", " ")
