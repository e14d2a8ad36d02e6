"""Runs that Redis has forgotten, put back into the ledger from what the repository says of them.

    runs/<run>/open is there, and the ledger does not know the run
        -> create_run under the same name -> plan-run takes the recorded VMs, plan-vm the recorded plans

That a run is created twice is impossible: the ledger takes a name once, so any number of schedulers and
people may do this at the same time.
"""

from __future__ import annotations

import logging
import time

from scheduler.background_loop import BackgroundLoop
from scheduler.runs.facts import create_run, opened_run
from scheduler.runs.values import RunFacts
from workers.fleet import Ledger
from workers.records import RecordUnreadable
from workers.repository import DamagedObject, Repository

log = logging.getLogger(__name__)

LOOK_EVERY = 300.0
"""Seconds between two looks at the list of open runs while nothing points to a loss."""


def resume_run(ledger: Ledger, repository: Repository, run: str) -> bool:
    """Puts an open run back into the ledger; False when the ledger has it, or when it is not open."""
    opened = opened_run(repository, run)
    if opened is None:
        return False
    return create_run(ledger, run, RunFacts(opened.request, opened.started))


def resume_lost_runs(ledger: Ledger, repository: Repository) -> list[str]:
    """Resumes every open run that the ledger does not know, and returns their names. One whose record cannot
    be read is said and left."""
    at_work = list(repository.open_runs())
    known = set(ledger.runs())  # asked second: a run that has just begun is in the ledger first
    resumed = []
    for run in (each for each in at_work if each not in known):
        try:
            if resume_run(ledger, repository, run):
                resumed.append(run)
        except (RecordUnreadable, DamagedObject) as error:
            log.warning("run %s cannot be resumed: %s", run, error)
    return resumed


class Resumer(BackgroundLoop):
    """Looks for lost runs at the start, again and again while a barrier says that Redis may have forgotten
    something, and now and then."""

    def __init__(self, ledger: Ledger, repository: Repository) -> None:
        pause = ledger.timing.barrier / 20
        super().__init__("resumer", "looking for lost runs", pause=pause, back_off=(pause, 4 * pause))
        self._ledger = ledger
        self._repository = repository
        self._look_at = 0.0
        """When to look whatever the barrier says, on the monotonic clock; 0.0 also after a failure."""

    def round(self) -> None:
        look_at, self._look_at = self._look_at, 0.0
        if time.monotonic() >= look_at or self._ledger.barrier_left() > 0:
            for run in resume_lost_runs(self._ledger, self._repository):
                log.warning("run %s was lost with Redis and goes on, from what is in the repository", run)
            look_at = time.monotonic() + LOOK_EVERY
        self._look_at = look_at
