"""What XenAPI's codes mean, in the one line that a person reads: pure text, no reference in it.

Source of the codes: XAPI's datamodel and the storage manager's list of errors.
"""

from __future__ import annotations

import re

# Longest piece of a storage manager's stderr that still reads as one line.
_PARAMETER_LENGTH = 200
_PARAMETERS = 8

_REFERENCE = re.compile(r"OpaqueRef(?::|%3[Aa])[0-9A-Za-z-]+")
_SESSION_ID = re.compile(r"session_id(=|%3[Dd])[^&\s\"'<>]+")

_FULL_NEXT = "the next backup of this disk has to be a full one"
_OFFLINE = (
    "a host of the pool is offline or cannot be reached by the master; start it, or remove it from the pool"
)

MEANINGS = {
    "CANNOT_CONTACT_HOST": _OFFLINE,
    "HOST_BROKEN": _OFFLINE,
    "HOST_HAS_NO_MANAGEMENT_IP": "the host has no management address",
    "HOST_IN_EMERGENCY_MODE": "the host is in emergency mode: it has lost its pool's master; bring that "
    "back, or, when it is gone for good, make this host the master: xe pool-emergency-transition-to-master",
    "HOST_IS_SLAVE": "this host is not the pool's master",
    "HOST_NOT_LIVE": _OFFLINE,
    "HOST_OFFLINE": _OFFLINE,
    "HOST_STILL_BOOTING": "the host is still starting; try again in a few minutes",
    "HANDLE_INVALID": "the object is gone: it was deleted meanwhile",
    "INVALID_VALUE": "XAPI does not take this value",
    "INTERNAL_ERROR": "XAPI met an error of its own; its log is /var/log/xensource.log on the master",
    "LICENCE_RESTRICTION": "the pool's licence does not include this (changed block tracking needs another)",
    "LICENSE_EXPIRED": "the licence of a host has expired; renew it",
    "MAP_DUPLICATE_KEY": "that key is set already; remove it first",
    "MESSAGE_METHOD_UNKNOWN": "this version of XAPI does not know the call (is it older than 7.3?)",
    "MESSAGE_PARAMETER_COUNT_MISMATCH": "this version of XAPI takes other parameters",
    "NETWORK_INCOMPATIBLE_PURPOSES": "a pool cannot have both nbd and insecure_nbd networks; remove one",
    "NETWORK_UNMANAGED": "XAPI does not manage this network; give the purpose to another",
    "NOT_SUPPORTED_DURING_UPGRADE": "the pool is in a rolling upgrade; try again when it has ended",
    "OPERATION_NOT_ALLOWED": "the object's state does not allow it now",
    "OTHER_OPERATION_IN_PROGRESS": "another operation holds the object; try again when it has ended",
    "SESSION_AUTHENTICATION_FAILED": "user name or password is wrong",
    "SESSION_AUTHORIZATION_FAILED": "this user may not log in to the pool",
    "SESSION_INVALID": "the session has ended",
    "SM_PLUGIN_COMMUNICATION_FAILURE": "the storage manager's plugin did not answer",
    "SR_BACKEND_FAILURE_44": "the storage repository is full",
    "SR_BACKEND_FAILURE_46": "the storage repository cannot open the disk",
    "SR_BACKEND_FAILURE_66": "this kind of disk cannot do it (a raw disk has no changed blocks)",
    "SR_BACKEND_FAILURE_79": "the storage repository refuses this size",
    "SR_BACKEND_FAILURE_109": "the chain of snapshots is too long; let it coalesce, or delete some",
    "SR_BACKEND_FAILURE_202": "the storage manager failed",
    "SR_BACKEND_FAILURE_457": "changed block tracking could not be switched on",
    "SR_BACKEND_FAILURE_458": "changed block tracking could not be switched off",
    "SR_BACKEND_FAILURE_459": f"the disk's changed-block log is inconsistent; {_FULL_NEXT}",
    "SR_BACKEND_FAILURE_460": f"no unbroken log of changes between these snapshots; {_FULL_NEXT}",
    "SR_HAS_NO_PBDS": "the storage repository has no connection to any host; create and plug its PBDs",
    "SR_NOT_ATTACHED": "the storage repository is not plugged in to a host; plug its PBDs in",
    "SR_NO_PBDS": "the disk's storage repository is not plugged in to a host that could do it",
    "SR_OPERATION_NOT_SUPPORTED": "this kind of storage repository cannot do it",
    "TASK_CANCELLED": "the task was cancelled on the pool",
    "TOO_MANY_PENDING_TASKS": "more than 100 operations wait for this object; try again later",
    "UUID_INVALID": "there is no object with this uuid",
    "VDI_IN_USE": "the disk is attached or in use, or a host has not let go of it yet; try again",
    "VDI_IS_SHARABLE": "a disk shared by several VMs cannot be snapshotted",
    "VDI_INCOMPATIBLE_TYPE": "a disk of this type cannot do it (a metadata-only snapshot has no data)",
    "VDI_MISSING": "the storage repository no longer has the disk",
    "VDI_NOT_MANAGED": "XAPI does not manage this disk",
    "VDI_NO_CBT_METADATA": "the snapshot has no changed-block metadata",
    "VDI_ON_BOOT_MODE_INCOMPATIBLE_WITH_OPERATION": "the disk is reset at every boot",
    "VM_BAD_POWER_STATE": "the VM is not in the power state that this needs",
}  # fmt: skip

_ROLES = {  # a method's lower-case name as RBAC_PERMISSION_DENIED gives it -> the least role that may call it
    "network.add_purpose": "pool-admin",
    "network.remove_purpose": "pool-admin",
    "vdi.get_nbd_info": "vm-admin",
    "vdi.list_changed_blocks": "vm-operator",
    "vm.snapshot": "vm-power-admin",
    "vm.revert": "vm-power-admin",
    "sr.scan": "vm-power-admin",
    "task.cancel": "pool-operator for another user's task, else read-only",
}


def redact(text: str) -> str:
    """`text` on one line, without object and session references."""
    text = _SESSION_ID.sub("session_id=<hidden>", text)
    return " ".join(_REFERENCE.sub("<ref>", text).split())


def needed_role(method: str) -> str:
    """The least role that may call `method` ("VDI.snapshot", any case)."""
    name = method.lower().removeprefix("async.")
    if name in _ROLES:
        return _ROLES[name]
    return "read-only" if name.partition(".")[2].startswith("get_") else "vm-admin"


def failure_text(code: str, params: list[str], method: str, pool: str = "") -> str:
    """The one line for a failure: which call on which pool, what it means, the code and its parameters."""
    if code == "RBAC_PERMISSION_DENIED":
        denied = params[0] if params else method
        meaning = f"the user may not call {shown(denied)}; it needs the role {needed_role(denied)} or above"
        params = []
    elif code == "Fault" and "async" in " ".join(params).lower():
        meaning = "the call cannot run as a task"
    elif code == "OTHER_OPERATION_IN_PROGRESS" and len(params) >= 3:
        kind, _, operation = params[:3]
        meaning = (
            f"another operation, {shown(operation)}, holds the {shown(kind)}; try again when it has ended"
        )
        params = []
    else:
        meaning = MEANINGS.get(code, "")
    details = ", ".join(part for part in (shown(text) for text in params[:_PARAMETERS]) if part)
    reason = f"{shown(code)}: {details}" if details else shown(code)
    where = f"pool {pool}: " if pool else ""
    return f"{where}{method} failed: {meaning} ({reason})" if meaning else f"{where}{method} failed: {reason}"


def shown(text: str) -> str:
    """`text` as `redact` makes it, at most as long as a person reads."""
    text = redact(text)
    return text if len(text) <= _PARAMETER_LENGTH else f"{text[:_PARAMETER_LENGTH]}…"
