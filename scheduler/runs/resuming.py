"""Runs that Redis has forgotten, put back into the ledger from what the repository says of them.

    runs/<run>/open is there, and the ledger does not know the run
        -> create_run under the same name -> plan-run takes the recorded VMs, plan-vm the recorded plans

That a run is created twice is impossible: the ledger takes a name once, so any number of schedulers and
people may do this at the same time.
"""

from __future__ import annotations

import logging
import threading

from workers.errors import CbtfleetError
from workers.fleet import Ledger
from workers.repository import Repository

log = logging.getLogger(__name__)

LOOK_EVERY = 300.0
"""Seconds between two looks at the list of open runs while nothing points to a loss."""


def resume_run(ledger: Ledger, repository: Repository, run: str) -> bool:
    """Puts an open run back into the ledger; False when the ledger has it, or when it is not open."""
    facts = repository.open_facts(run)
    if facts is None:
        return False
    return ledger.create_run(run, {key: value for key, value in facts.items() if key != "vms"})


def resume_lost_runs(ledger: Ledger, repository: Repository) -> list[str]:
    """Resumes every open run that the ledger does not know, and returns their names."""
    at_work = list(repository.open_runs())
    known = set(ledger.runs())  # asked second: a run that has just begun is in the ledger first
    return [run for run in at_work if run not in known and resume_run(ledger, repository, run)]


class Resumer:
    """Looks for lost runs at the start, again and again while a barrier says that Redis may have forgotten
    something, and now and then. Nothing ends it but `stop`."""

    def __init__(self, ledger: Ledger, repository: Repository) -> None:
        self._ledger = ledger
        self._repository = repository
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._look, name="resume", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._end.set()
        if self._thread.is_alive():
            self._thread.join()

    def _look(self) -> None:
        pause = self._ledger.timing.barrier / 20
        quiet = 0.0
        look = True
        said = False
        while not self._end.is_set():
            try:
                look = look or quiet >= LOOK_EVERY or self._ledger.barrier_left() > 0
                if look:
                    self.turn()
                    look, quiet = False, 0.0
                said = False
            except CbtfleetError as error:
                if not said:
                    log.warning("runs that may be lost are not looked for: %s; trying again", error)
                look = said = True
            except Exception:
                log.exception("looking for lost runs met something unexpected; going on")
            self._end.wait(pause)
            quiet += pause

    def turn(self) -> None:
        for run in resume_lost_runs(self._ledger, self._repository):
            log.warning("run %s was lost with Redis and goes on, from what is in the repository", run)
