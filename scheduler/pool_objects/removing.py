"""Orphans removed, one after the other; what does not go stays, with the reason.

    control-domain VBD   unplugged and destroyed     a host that still has it open refuses that
    VM snapshot          its disks tagged, destroyed
    VDI snapshot         destroyed, or only its data

Each is proved to be ours, and not needed, right before it goes (`destruction.py`).

Any number of schedulers and people may do this at the same time: what is gone already is fine.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from scheduler.context import ControlContext
from scheduler.pool_objects.destruction import Destruction, NotProved
from scheduler.pool_objects.orphans import Orphan
from scheduler.pool_objects.snapshots import VmSnapshot, is_tagged
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
    destruction = Destruction(session, context.repository)
    done: list[Removed] = []
    for each in orphans:
        if stop():
            break
        error = each.kept
        if error is None:
            try:
                error = _remove(session, context, destruction, each, until)
            except NotProved as unproved:
                error = str(unproved)
            except XapiFailure as failure:
                if not is_gone(failure) and failure.code != "DEVICE_ALREADY_DETACHED":
                    error = str(failure)
        done.append(Removed(each, error))
    return done


def _remove(
    session: Session, context: ControlContext, destruction: Destruction, each: Orphan, until: float
) -> str | None:
    """Why it stays; None: it is gone."""
    if each.kind == "VM snapshot":
        destruction.vm_snapshot(each.ref, each.run, lambda found: _is_ours(session, context, found, each.run))
        return None
    disk_ref = each.disk_ref or each.ref
    tag = each.tag or destruction.tag(disk_ref)  # removing its VM snapshot has tagged it
    if tag is None:
        return None
    if each.kind == "attachment":
        destruction.detach(each.ref, disk_ref, tag)
        return None
    fate = destruction.disk_snapshot(disk_ref, tag, until)
    return fate.why if fate is not None and fate.action == "keep" else None


def _is_ours(session: Session, context: ControlContext, snapshot: VmSnapshot, run: str) -> bool:
    """Whether a run of this repository made it: by our tags on its disks, or as only our runs have this
    name."""
    repository = context.repository
    return is_tagged(session, snapshot, repository.repository_id) or run in repository.run_names()
