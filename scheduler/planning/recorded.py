"""How one VM of a run was planned, as the repository keeps it while the run is open: `runs/<run>/vms/<vm>`.

It is written before anything is read, and says what the ledger was told; the bitmaps are kept beside it. So
after Redis has forgotten everything the run goes on with the same snapshot:

    record -> the snapshot still there? -> the plan, from bitmaps/ -> packs that are there are done -> ledger
                      | no
                      v
              the disk fails, unless every batch has its pack
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from scheduler.policies.requests import RunRequest
from workers.errors import CbtfleetError
from workers.fleet import DiskWork
from workers.repository import DamagedObject, ObjectMissing, Repository
from workers.xenapi import Session, XapiFailure, is_gone

log = logging.getLogger(__name__)


class SnapshotGone(CbtfleetError):
    """The snapshot that a run was reading has been removed from the pool."""


@dataclass(frozen=True)
class VmRecord:
    facts: dict[str, Any]
    """The VM's facts in the ledger."""
    disks: list[dict[str, Any]]
    """Of each planned disk what is not in the run's request, nor in its bitmap."""

    @classmethod
    def load(cls, repository: Repository, run: str, vm_uuid: str) -> VmRecord | None:
        """None when the VM was not planned yet. Raises DamagedObject."""
        kept = repository.run_vm(run, vm_uuid)
        return None if kept is None else cls(kept["facts"], kept["disks"])

    @classmethod
    def of(cls, facts: dict[str, Any], works: Sequence[DiskWork]) -> VmRecord:
        disks = [
            {
                "disk": work.disk,
                "snapshot": work.snapshot,
                "virtual_size": work.virtual_size,
                "hosts": list(work.hosts),
                "facts": work.facts,
            }
            for work in works
        ]
        return cls(facts, disks)

    def keep(self, repository: Repository, run: str, vm_uuid: str) -> VmRecord:
        """Writes it, once: of two schedulers that planned the same VM, both go on with what the first wrote.
        Returns that."""
        kept = repository.keep_run_vm(run, vm_uuid, {"facts": self.facts, "disks": self.disks})
        return VmRecord(kept["facts"], kept["disks"])

    def resumed(
        self, repository: Repository, session: Session, request: RunRequest, run: str, vm_uuid: str
    ) -> tuple[dict[str, Any], list[DiskWork]]:
        """The VM's facts and its disks as they are to be done now.

        A disk that cannot be gone on with is named in the facts' `failed`, with its reason.
        """
        works = []
        failed = dict(self.facts.get("failed", {}))
        for disk in self.disks:
            try:
                works.append(self._work(repository, session, request, run, vm_uuid, disk))
            except (SnapshotGone, DamagedObject, ObjectMissing) as error:
                name = disk["facts"]["name"]
                line = f'VM "{self.facts["name"]}", disk {name or disk["disk"]}: {error}'
                log.warning("%s", line)
                failed[disk["disk"]] = {"name": name, "error": line}
        return {**self.facts, "failed": failed}, works

    def _work(
        self,
        repository: Repository,
        session: Session,
        request: RunRequest,
        run: str,
        vm_uuid: str,
        disk: dict[str, Any],
    ) -> DiskWork:
        plan = repository.plan(run, disk["disk"])
        stored = repository.stored_batches(run, disk["disk"], plan)
        if len(stored.batches) < plan.batches:
            _check_snapshot(session, disk["snapshot"])
        if stored.batches:
            log.info(
                'VM "%s", disk %s: %d of %d batches are in the store already',
                self.facts["name"],
                disk["facts"]["name"] or disk["disk"],
                len(stored.batches),
                plan.batches,
            )
        return DiskWork(
            run=run,
            vm=vm_uuid,
            disk=disk["disk"],
            pool=request.pool,
            snapshot=disk["snapshot"],
            virtual_size=disk["virtual_size"],
            batches=plan.batches,
            hosts=tuple(disk["hosts"]),
            weight=request.weight,
            facts=disk["facts"],
            plan=plan.pack(),
            attempts=request.retry.attempts,
            give_up_after=request.retry.give_up_after,
            done=stored.batches,
            read_bytes=stored.read_bytes,
            stored_bytes=stored.stored_bytes,
        )


def _check_snapshot(session: Session, uuid: str) -> None:
    """Raises SnapshotGone when there is nothing to read (any more)."""
    try:
        record = session.call("VDI.get_record", session.call("VDI.get_by_uuid", uuid))
    except XapiFailure as failure:
        if not is_gone(failure):
            raise
        raise SnapshotGone(
            f"its snapshot {uuid} is no longer on the pool, so it cannot be read on"
        ) from failure
    if record["type"] == "cbt_metadata":
        raise SnapshotGone(
            f"the data of its snapshot {uuid} was removed from the pool, so it cannot be read on"
        )
