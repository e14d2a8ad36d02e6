"""Forgetting restore points: by a policy's `keep`, or those that a person names.

Only manifests are deleted. The data that no restore point needs any more stays until it is pruned.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime

from scheduler.policies.policy import Policy
from scheduler.policies.retention import Decision, decide
from scheduler.runs.facts import opened_run
from workers.errors import CbtfleetError, ConfigurationError
from workers.records import RecordUnreadable
from workers.repository import DamagedObject, Point, Repository

log = logging.getLogger(__name__)

AT_WORK = "a run is backing this VM up"
"""Of a run that goes on the next restore point is built upon what was the newest when it began."""

OWN = "made by this run"


OnDamage = Callable[[CbtfleetError], None]
"""Is told of what cannot be read, and so is neither counted nor forgotten."""


def passed_over(error: CbtfleetError) -> None:
    log.warning("%s; it is neither counted nor forgotten", error)


class MayNotForget(CbtfleetError):
    """A point that was named is needed."""


def decide_by_policy(
    repository: Repository,
    name: str,
    policy: Policy,
    vms: Collection[str] | None = None,
    own_run: str | None = None,
    on_damage: OnDamage = passed_over,
) -> list[Decision]:
    """What the policy's `keep` makes of each of its points, of these VMs (uuids) or of all, oldest first.

    What `own_run` has made stays: a run never forgets its own points. What cannot be read is passed over and
    told to `on_damage`: such points are not forgotten, and count as no good point. Raises ConfigurationError
    when the policy has no `keep`.
    """
    if policy.keep is None:
        raise ConfigurationError(f"policies.{name} has no keep, so all of its restore points are kept")
    at_work = vms_at_work(repository, on_damage)
    decisions = []
    for vm, points in _by_vm(repository, vms, on_damage).items():
        for decision in decide(points, name, policy.keep, policy.zone, datetime.now(UTC)):
            if vm in at_work:
                decision = replace(decision, kept_by=(*decision.kept_by, AT_WORK))
            if decision.point.run == own_run:
                decision = replace(decision, kept_by=(*decision.kept_by, OWN))
            decisions.append(decision)
    return sorted(decisions, key=lambda decision: decision.point.order)


def find_named(
    repository: Repository, names: Iterable[str], *, even_last: bool, on_damage: OnDamage = passed_over
) -> list[Point]:
    """The points that these ids, or beginnings of ids, mean, each once.

    Raises PointNotFound, PointAmbiguous, and MayNotForget for the newest point of a disk, unless `even_last`,
    and for points of a VM that is being backed up.
    """
    found = {point.id: point for point in map(repository.find_point, names)}
    at_work = vms_at_work(repository, on_damage)
    for point in found.values():
        if point.vm_uuid in at_work:
            raise MayNotForget(
                f"restore point {point.id} stays for now: {AT_WORK}; try again when it has ended"
            )
        if not even_last:
            _check_not_last(repository, point)
    return list(found.values())


def forget(repository: Repository, points: Sequence[Point]) -> None:
    """Forgets them, oldest first."""
    for point in sorted(points, key=lambda point: point.order):
        repository.forget(point)
        log.info('VM "%s": restore point %s of %s is forgotten', point.vm, point.id, point.time)


def vms_at_work(repository: Repository, on_damage: OnDamage) -> set[str]:
    """The VMs (uuids) of every run that has not ended, also of one that Redis has forgotten.

    Of a run whose record cannot be read, those that it has planned: the others' base is chosen only then,
    from what is there.
    """
    found: set[str] = set()
    for run in list(repository.open_runs()):
        try:
            opened = opened_run(repository, run)
            found |= set() if opened is None else opened.vms.keys()
        except (DamagedObject, RecordUnreadable) as error:
            on_damage(error)
            found |= repository.run_vms(run)
    return found


def _by_vm(
    repository: Repository, vms: Collection[str] | None, on_damage: OnDamage
) -> dict[str, list[Point]]:
    by_vm: dict[str, list[Point]] = {}
    for vm in [None] if vms is None else sorted(vms):
        for point in repository.points(vm, on_damage=on_damage):
            by_vm.setdefault(point.vm_uuid, []).append(point)
    return by_vm


def _check_not_last(repository: Repository, point: Point) -> None:
    newer: set[str] = set()
    for other in repository.points(point.vm_uuid, on_damage=lambda error: None):
        if other.order > point.order:
            newer.update(disk.vdi for disk in other.disks)
    for disk in point.disks:
        if disk.vdi not in newer:
            raise MayNotForget(
                f'restore point {point.id} is the newest of disk {disk.name or disk.vdi} of VM "{point.vm}":'
                " with --even-last it is forgotten all the same, and the disk's next backup reads all of it"
            )
