"""Where the values of a run are read and written: the ledger, and the repository while the run is at work.

Every call may raise what its ledger or repository raises, and RecordUnreadable for what cannot be read.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

from scheduler.context import ControlContext
from scheduler.policies.requests import RunRequest
from scheduler.runs.values import OpenRun, PlannedVm, RunFacts, RunResult, VmFacts
from workers.errors import CbtfleetError
from workers.fleet import Ledger
from workers.records import RecordUnreadable
from workers.repository import DamagedObject, Repository

log = logging.getLogger(__name__)


class RunNotOpen(CbtfleetError):
    """A step of a run that has ended, by what the repository has."""

    def __init__(self, run: str) -> None:
        super().__init__(f"run {run} is not open in the repository: it was ended meanwhile")


# In the ledger


Sign = Callable[[bytes], bytes]
"""`Repository.sign_order`, of whoever has the metadata key."""


def create_run(ledger: Ledger, run: str, facts: RunFacts, sign: Sign | None = None) -> bool:
    """False when the run exists already. A run that nobody signed counts as made by hand."""
    if sign is not None:
        facts = replace(facts, signature=sign(facts.asked(run)).hex())
    return ledger.create_run(run, facts.write())


def believed_request(repository: Repository, run: str, facts: RunFacts) -> RunRequest:
    """What a run that has not begun is asked to do; without the policy's name when that is not signed."""
    request = facts.request
    if request.policy is None or repository.is_signed(facts.asked(run), facts.signature):
        return request
    log.warning("run %s: its request is not signed, so policy %s does not count it", run, request.policy)
    return replace(request, policy=None)


def run_facts(ledger: Ledger, run: str) -> RunFacts:
    return RunFacts.read(ledger.run_facts(run), f"run {run} in Redis")


def keep_run_facts(ledger: Ledger, run: str, facts: RunFacts) -> None:
    ledger.set_run_facts(run, facts.write())


def result_in_ledger(ledger: Ledger, run: str) -> RunResult | None:
    """None before the run has ended, and when it is not known (any more)."""
    kept = ledger.run_result(run)
    return None if kept is None else RunResult.read(kept, f"the result of run {run} in Redis")


def vm_facts(ledger: Ledger, run: str, vm_uuid: str) -> VmFacts:
    return read_vm_facts(ledger.vm_facts(run, vm_uuid), run, vm_uuid)


def read_vm_facts(kept: bytes, run: str, vm_uuid: str) -> VmFacts:
    return VmFacts.read(kept, f"VM {vm_uuid} of run {run} in Redis")


class VmInHand:
    """One VM of a run while a step works on it: `facts` are replaced as more is known, and kept when told."""

    def __init__(self, ledger: Ledger, run: str, vm_uuid: str, facts: VmFacts) -> None:
        self._ledger = ledger
        self.run = run
        self.uuid = vm_uuid
        self.facts = facts

    @classmethod
    def from_ledger(cls, ledger: Ledger, run: str, vm_uuid: str) -> VmInHand:
        return cls(ledger, run, vm_uuid, vm_facts(ledger, run, vm_uuid))

    def warn(self, line: str) -> None:
        self.facts = replace(self.facts, warnings=(*self.facts.warnings, line))

    def keep(self) -> None:
        """Without effect on a VM that is finished."""
        self._ledger.set_vm_facts(self.run, self.uuid, self.facts.write())

    def finish(self) -> None:
        """Keeps the facts and ends the VM."""
        self._ledger.finish_vm(self.run, self.uuid, self.facts.write())


# In the repository


def open_run(repository: Repository, run: str, record: OpenRun) -> OpenRun:
    """Says that the run is at work. Returns what is kept: the first record stays."""
    return _read_open_run(repository.open_run(run, record.write()), run)


def opened_run(repository: Repository, run: str) -> OpenRun | None:
    """None when the run is not at work."""
    kept = repository.open_record(run)
    return None if kept is None else _read_open_run(kept, run)


def run_at_work(context: ControlContext, run: str) -> OpenRun:
    """What a run has to do, as it is sealed: in Redis it could have been changed. Raises RunNotOpen.

    It names every VM of the run, and each VM's steps ask for it: a process reads it once.
    """
    if not context.repository.run_is_open(run):
        raise RunNotOpen(run)
    return context.read_once.get(f"runs/{run}/open", partial(_read_run_at_work, context.repository, run))


def _read_run_at_work(repository: Repository, run: str) -> OpenRun:
    opened = opened_run(repository, run)
    if opened is None:
        raise RunNotOpen(run)
    return opened


def failed_vm(repository: Repository, run: str, vm_uuid: str, line: str) -> VmFacts:
    """A VM of which the ledger has nothing that can be read: `line` is why it failed."""
    try:
        opened = opened_run(repository, run)
    except CbtfleetError:  # then there is no name for it
        opened = None
    name = vm_uuid if opened is None else opened.vms.get(vm_uuid, vm_uuid)
    return VmFacts(name, error=f'VM "{name}": {line}')


def _read_open_run(kept: bytes, run: str) -> OpenRun:
    return OpenRun.read(kept, f"the record of open run {run}")


def keep_planned_vm(repository: Repository, run: str, vm_uuid: str, planned: PlannedVm) -> PlannedVm:
    """Returns what is kept: of two schedulers that planned the same VM, both go on with the first record."""
    return _read_planned_vm(repository.keep_run_vm(run, vm_uuid, planned.write()), run, vm_uuid)


def planned_vm(repository: Repository, run: str, vm_uuid: str) -> PlannedVm | None:
    """None when the VM was not planned yet, or the run has ended."""
    kept = repository.run_vm(run, vm_uuid)
    return None if kept is None else _read_planned_vm(kept, run, vm_uuid)


def _read_planned_vm(kept: bytes, run: str, vm_uuid: str) -> PlannedVm:
    return PlannedVm.read(kept, f"the record of VM {vm_uuid} of run {run}")


def result_of(repository: Repository, run: str) -> RunResult | None:
    """None when the run has not ended, or never was."""
    kept = repository.result(run)
    return None if kept is None else _read_result(kept, run)


def results(
    repository: Repository, on_unreadable: Callable[[RecordUnreadable | DamagedObject], None]
) -> Iterator[RunResult]:
    """Of all runs that have ended, the newest last. One that cannot be read is passed over."""
    for run in repository.ended_runs():
        try:
            result = result_of(repository, run)
        except (RecordUnreadable, DamagedObject) as error:
            on_unreadable(error)
        else:
            if result is not None:
                yield result


def _read_result(kept: bytes, run: str) -> RunResult:
    return RunResult.read(kept, f"the result of run {run}")
