"""The concurrency limit: how many VMs of a pool are snapshotted at once, over all schedulers of the fleet.

XAPI does the operations on one storage repository one after the other, and lets the callers wait up to two
hours, the guests' own operations among them. So the queue is ours: in the ledger, first come, first served,
and a step that has to wait is put off and blocks nobody. The ledger makes it due when it has its permit.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime

from scheduler.context import ControlContext
from scheduler.planning.disk_choice import Drive
from scheduler.policies.requests import RunRequest
from workers.errors import CbtfleetError
from workers.messages import Step
from workers.xenapi import NULL_REF, Session, XapiRecord

LOOK_AGAIN = 3600.0
"""Seconds after which a step that waits is done again all the same. Nothing is known that would need it."""


class WaitsForPermit(CbtfleetError):
    """Too many others are at work: do the step again in `seconds`, or when the ledger makes it due."""

    def __init__(self, request: RunRequest) -> None:
        super().__init__("waits for its permit")
        left = request.trigger.left(datetime.now(UTC)) if request.trigger is not None else None
        self.seconds = LOOK_AGAIN if left is None else min(LOOK_AGAIN, left + 1.0)
        """Until the window's end, if that is sooner: then it gives up."""


def take_permit_again(context: ControlContext, request: RunRequest, run: str, vm_uuid: str) -> None:
    """Raises WaitsForPermit for a VM that waits already, before anything is asked of the pool."""
    if context.ledger.take_permit(_step(run, vm_uuid), request.pool) is False:
        raise WaitsForPermit(request)


def take_permit(
    context: ControlContext,
    session: Session,
    request: RunRequest,
    run: str,
    vm: XapiRecord,
    drives: Iterable[Drive],
) -> None:
    """From now on this VM has its permit, until its step has ended. Raises WaitsForPermit."""
    pool = request.pool
    settings = context.settings.pool(pool)
    places = {f"pool/{pool}": settings.snapshots_at_once}
    for drive in drives:
        places[f"sr/{pool}/{drive.sr.get('uuid', '')}"] = settings.snapshots_at_once_per_sr
    if vm.get("resident_on", NULL_REF) != NULL_REF:
        host = session.call("host.get_record", vm["resident_on"])["uuid"]
        places[f"host/{pool}/{host}"] = settings.snapshots_at_once_per_host
    if not context.ledger.take_permit(_step(run, vm["uuid"]), pool, places):
        raise WaitsForPermit(request)


def _step(run: str, vm_uuid: str) -> Step:
    return Step(run, "plan-vm", vm_uuid)
