"""Which drives the next run would back up: planning's own choice, over records that are there already."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from scheduler.checks.pool_facts import PoolFacts
from scheduler.planning.disk_choice import Drive, Skipped, choose_drives, read_drives
from scheduler.planning.selection import VmChoice, select_vms
from scheduler.policies.policy import Policy
from scheduler.policies.requests import RunRequest
from workers.xenapi import Session, XapiFailure, XapiRecord, XapiRecords


@dataclass(frozen=True)
class Chosen:
    """A VM that the policy means, its drives to back up, and those left out."""

    vm: VmChoice
    drives: tuple[Drive, ...]
    skipped: tuple[Skipped, ...] = ()

    @property
    def disks(self) -> list[str]:
        """The VDI references behind the drives to back up."""
        return [drive.ref for drive in self.drives]


def choose(name: str, policy: Policy, facts: PoolFacts) -> list[Chosen]:
    """As the run will: the same selection of VMs and of drives. Raises NotRead."""
    request = RunRequest(pool=policy.pool, policy=name, include=policy.include, exclude=policy.exclude)
    records = cast(Session, _XapiRecords(facts))
    vms = select_vms(request, facts.of("VM"))
    names = {vm.uuid: vm.name for vm in vms}
    found = []
    for vm in vms:
        drives: list[Drive] = read_drives(records, facts.of("VM")[vm.ref])
        taken, skipped = choose_drives(drives, policy.exclude_disks, vm.uuid, names)
        found.append(Chosen(vm, tuple(taken), tuple(skipped)))
    return found


class _XapiRecords:
    """Answers the getters that `read_drives` calls as the pool would have, when it was looked at."""

    def __init__(self, facts: PoolFacts) -> None:
        self._facts = facts

    def call(self, method: str, ref: str) -> XapiRecord:
        kind = method.removesuffix(".get_record")
        if ref not in self._facts.of(kind):
            raise XapiFailure("HANDLE_INVALID", [kind], method, self._facts.name)
        return self._facts.of(kind)[ref]

    def aside(self, method: str) -> XapiRecords:
        return self._facts.of(method.removesuffix(".get_all_records"))
