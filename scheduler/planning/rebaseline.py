"""A full backup of a disk that was backed up before: it reads all, and stores only what differs.

    planned:    the last restore point's keyed hashes are put where workers find them
    finished:   the blocks that workers called unchanged are taken from that point

It spares time and space and nothing depends on it: whatever goes wrong while planning, all blocks are stored.
"""

from __future__ import annotations

import logging

from workers.errors import CbtfleetError
from workers.extents import Plan
from workers.fleet import DiskFacts
from workers.repository import DamagedObject, DiskPoint, PointNotFound, Repository

log = logging.getLogger(__name__)


def keep_comparison(repository: Repository, run: str, name: str, plan: Plan, last: DiskPoint) -> str | None:
    """Lets workers compare the plan's blocks with those of the `last` point of the disk.

    Returns that point's VDI snapshot, by which finishing finds it again; None: there is nothing to compare
    with, all blocks are stored. `name` is the disk's, for people.
    """
    try:
        known = repository.keep_known_hashes(run, plan, last)
    except CbtfleetError as error:
        log.warning("%s: not compared with its last restore point, all is stored: %s", name, error)
        return None
    log.info("%s: compared with its last restore point: %d of its blocks are known", name, known)
    return last.snapshot if known else None


def compared_point(repository: Repository, vm_uuid: str, disk: str, facts: DiskFacts) -> DiskPoint | None:
    """The point that the disk's blocks were compared with, by the facts of its plan.

    None also when it cannot be read any more: that is an error only if a block has to be taken from it.
    """
    snapshot = facts.compared_with
    if snapshot is None:
        return None
    try:
        return repository.disk_of_snapshot(vm_uuid, disk, snapshot)
    except (DamagedObject, PointNotFound) as error:
        log.warning("disk %s: the restore point that it was compared with: %s", disk, error)
        return None
