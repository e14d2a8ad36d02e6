"""Which VMs of a pool a run means: a pure function over the pool's VM records."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from scheduler.policies.policy import Selector
from scheduler.policies.requests import RunRequest
from workers.errors import CbtfleetError
from workers.xenapi import XapiRecord, XapiRecords


class SelectionError(CbtfleetError):
    """The run names a VM that is not there, or a name that two VMs share."""


@dataclass(frozen=True)
class VmChoice:
    """One VM to back up. `ref` is XAPI's handle for it and valid for as long as the VM exists."""

    ref: str
    uuid: str
    name: str


def is_ordinary_vm(record: XapiRecord) -> bool:
    kinds = ("is_a_template", "is_a_snapshot", "is_control_domain")
    return not any(record.get(kind) for kind in kinds)


def select_vms(request: RunRequest, records: XapiRecords) -> list[VmChoice]:
    """The chosen VMs, ordered by name. `records` is what `VM.get_all_records` returned.

    Raises SelectionError when a named VM does not exist or a name is not unique. A policy that selects
    nothing gives an empty list.
    """
    ordinary = [
        VmChoice(ref, record["uuid"], record["name_label"])
        for ref, record in records.items()
        if is_ordinary_vm(record)
    ]
    if request.vms:
        chosen = {vm.uuid: vm for vm in (_named(text, ordinary, request.pool) for text in request.vms)}
    else:
        chosen = {
            vm.uuid: vm
            for vm in ordinary
            if _matches(request.include, vm, records[vm.ref].get("tags", ()))
            and not _matches(request.exclude, vm, records[vm.ref].get("tags", ()))
        }
    return sorted(chosen.values(), key=lambda vm: (vm.name, vm.uuid))


def _named(text: str, vms: list[VmChoice], pool: str) -> VmChoice:
    found = [vm for vm in vms if vm.uuid == text] or [vm for vm in vms if vm.name == text]
    if not found:
        raise SelectionError(f'pool {pool} has no VM "{text}"; give its exact name or its uuid')
    if len(found) > 1:
        uuids = " and ".join(sorted(vm.uuid for vm in found))
        raise SelectionError(f'pool {pool} has {len(found)} VMs named "{text}": {uuids}; give the uuid')
    return found[0]


def _matches(selector: Selector, vm: VmChoice, tags: Sequence[str]) -> bool:
    return (
        vm.uuid in selector.uuids
        or any(tag in selector.tags for tag in tags)
        or any(fnmatchcase(vm.name, pattern) for pattern in selector.names)
    )
