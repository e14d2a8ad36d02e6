"""What becomes of a disk snapshot of ours: kept, freed of its data, or destroyed. Decided here alone.

    its run is still going                  keep       it is being read, or will be the next base
    the newest restore point's snapshot     purge      with data and tracking: the metadata is the next base
                                            destroy    with data, without tracking: it can be no base
                                            keep       without data: the next backup's base
    another one with data                   destroy    nothing is read from it any more
    another one without data                destroy    its disk is gone, or a newer base is on the pool
                                            keep       else: it may be the only base that is left

The order of the questions matters: first whether the run is closed, which is final, and only then which
restore point is the newest. So a run that commits in between is seen either as going or as the newest.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Action = Literal["keep", "purge", "destroy"]


@dataclass(frozen=True)
class Fate:
    action: Action
    why: str


@dataclass(frozen=True)
class SnapshotState:
    """A disk snapshot as it is on the pool. `disk_is_gone`: the disk that it is of is no longer there."""

    uuid: str
    has_data: bool
    tracked: bool
    disk_is_gone: bool = False


def judge(
    snapshot: SnapshotState, *, run: str, going: bool, newest: str | None, newest_is_there: bool
) -> Fate:
    """By the table above: a pure function. `newest` is the snapshot (uuid) of the disk's newest restore
    point, None without one; `newest_is_there`: it is on the pool."""
    if going:
        return Fate("keep", "its run goes on")
    if snapshot.uuid == newest and not snapshot.disk_is_gone:
        if not snapshot.has_data:
            return Fate("keep", "the next backup's base")
        if snapshot.tracked:
            return Fate("purge", f"run {run} is committed, the next backup needs the metadata only")
        return Fate("destroy", f"run {run} is committed, and without tracking it can be no base")
    if snapshot.has_data:
        return Fate("destroy", f"run {run} has ended, and no backup builds upon it")
    if snapshot.disk_is_gone:
        return Fate("destroy", "its disk is no longer on the pool")
    if newest is not None and newest_is_there:
        return Fate("destroy", "a newer one is the base of its disk's next backup")
    return Fate("keep", "nothing newer is there")
