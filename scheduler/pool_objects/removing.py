"""Orphans removed, one after the other; what does not go stays, with the reason.

    control-domain VBD   unplugged and destroyed     a host that still has it open refuses that
    VM snapshot          its disks tagged, destroyed
    VDI snapshot         destroyed, or only its data

Any number of schedulers and people may do this at the same time: what is gone already is fine.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from scheduler.context import ControlContext
from scheduler.pool_objects.orphans import Orphan
from scheduler.pool_objects.snapshots import describe_vm_snapshot, destroy_vdi, purge_data, tag_disks
from workers.xenapi import Session, XapiFailure, is_gone


@dataclass(frozen=True)
class Removed:
    """An orphan, and why it is still there; None: it is gone."""

    orphan: Orphan
    error: str | None


def remove_orphans(
    session: Session,
    context: ControlContext,
    orphans: Sequence[Orphan],
    *,
    patience: float = 0.0,
    stop: Callable[[], bool] = lambda: False,
) -> list[Removed]:
    """In the order of `find_orphans`. `patience`: seconds, for all together, that hosts have to let go.

    `stop` is asked between two of them: once it says yes, the rest is left. Raises XapiError when the pool no
    longer answers.
    """
    until = time.monotonic() + patience
    done: list[Removed] = []
    for each in orphans:
        if stop():
            break
        error = each.kept
        if error is None:
            try:
                _remove(session, context, each, until)
            except XapiFailure as failure:
                if not is_gone(failure) and failure.code != "DEVICE_ALREADY_DETACHED":
                    error = str(failure)
        done.append(Removed(each, error))
    return done


def _remove(session: Session, context: ControlContext, each: Orphan, until: float) -> None:
    if each.kind == "attachment":
        if session.call("VBD.get_record", each.ref)["currently_attached"]:
            session.call_async("VBD.unplug", each.ref)
        session.call_async("VBD.destroy", each.ref)
    elif each.kind == "VM snapshot":
        snapshot = describe_vm_snapshot(session, each.ref)
        tag_disks(session, snapshot, each.run, context.repository.repository_id)
        session.call_async("VM.destroy", each.ref)
    elif each.kind == "snapshot data":
        purge_data(session, each.ref, until)
    else:
        destroy_vdi(session, each.ref, until)
