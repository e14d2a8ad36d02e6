"""Turns: how many VMs of a pool are snapshotted at once, over all schedulers of the fleet.

XAPI does the operations on one storage repository one after the other, and lets the callers wait up to two
hours, the guests' own operations among them. So the queue is ours: in the ledger, first come, first served,
and a step that has to wait is put off and blocks nobody.
"""

from __future__ import annotations

from collections.abc import Iterable

from scheduler.context import ControlContext
from scheduler.planning.disk_choice import Drive
from workers.errors import CbtfleetError
from workers.messages import Step
from workers.xenapi import NULL_REF, Session, XapiRecord


class WaitsForPermit(CbtfleetError):
    """Too many others are at it: do the step again in so many `seconds`, or when it is told."""

    def __init__(self, position: int) -> None:
        super().__init__(f"waits for its turn, as number {position}")
        self.seconds = min(30.0, 1.0 + position / 2)
        """The ledger tells the first ones as soon as it is their turn; this is for when that is missed."""


def take_permit_again(context: ControlContext, run: str, vm_uuid: str, pool: str) -> None:
    """Raises WaitsForPermit for a VM that waits already, before anything is asked of the pool."""
    position = context.ledger.take_permit(_step(run, vm_uuid), pool)
    if position:
        raise WaitsForPermit(position)


def take_permit(
    context: ControlContext,
    session: Session,
    run: str,
    pool: str,
    vm: XapiRecord,
    drives: Iterable[Drive],
) -> None:
    """From now on it is this VM's turn, until its step has ended. Raises WaitsForPermit."""
    settings = context.settings.pool(pool)
    places = {f"pool/{pool}": settings.snapshots_at_once}
    for drive in drives:
        places[f"sr/{pool}/{drive.sr.get('uuid', '')}"] = settings.snapshots_at_once_per_sr
    if vm.get("resident_on", NULL_REF) != NULL_REF:
        host = session.call("host.get_record", vm["resident_on"])["uuid"]
        places[f"host/{pool}/{host}"] = settings.snapshots_at_once_per_host
    position = context.ledger.take_permit(_step(run, vm["uuid"]), pool, places)
    if position:
        raise WaitsForPermit(position)


def _step(run: str, vm_uuid: str) -> Step:
    return Step(run, "plan-vm", vm_uuid)
