"""One schedule in a process of its own: `python -m tests.faults.one SEED FOLDER` writes FOLDER/line.json."""

from __future__ import annotations

import json
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import Any

from tests.faults.course import Course, Evidence
from tests.faults.judge import Verdict, compare_points, judge
from tests.faults.plan import draw
from tests.faults.servers import Pool
from workers.repository import PrivateKeys, Repository, Store


def run_one(seed: int, folder: Path) -> dict[str, Any]:
    """The schedule's line. `error`: the driver itself failed, which says nothing of the fleet."""
    began = time.monotonic()
    schedule = draw(seed)
    course = Course(schedule, folder)
    verdict = Verdict()

    def look(evidence: Evidence, store: Store, keys: PrivateKeys, repository: Repository, pool: Pool) -> None:
        (folder / "pool-log.json").write_text(json.dumps(evidence.log))
        points = compare_points(verdict, store, keys, repository, pool, folder / "restored.img")
        judge(verdict, evidence, points, store, keys.metadata)

    error = None
    try:
        course.run(look)
    except Exception as failure:  # noqa: BLE001  (whatever it is, it belongs into the line)
        (folder / "driver-error.txt").write_text(traceback.format_exc())
        error = f"{type(failure).__name__}: {failure}"
    evidence = course.evidence
    return {
        "seed": seed,
        "error": error,
        "violations": verdict.violations,
        "faults": evidence.faults,
        "drawn": schedule.kinds,
        "schedule": {
            "hosts": schedule.hosts,
            "cap": schedule.cap,
            "limit": schedule.limit,
            "nodes": schedule.nodes,
            "streams": schedule.streams,
            "schedulers": schedule.schedulers,
            "store": schedule.store,
            "redis": schedule.redis,
            "reclaim": schedule.reclaim,
            "release_delay": schedule.release_delay,
            "disks": sum(len(vm.disks) for vm in schedule.vms),
        },
        "runs": [
            {
                "run": ran.run,
                "status": ran.result.status,
                "seconds": ran.seconds,
                "after_heal": ran.after_heal,
                "errors": [row.error for row in ran.result.disks if row.error],
            }
            for ran in evidence.runs
        ],
        "compared": verdict.compared,
        "compared_bytes": verdict.compared_bytes,
        "lost_early": evidence.lost_early,
        "measured": verdict.measured,
        "seconds": round(time.monotonic() - began, 1),
    }


def _stop(*_: object) -> None:
    """Leaves through every `finally`, so that nothing that was started stays."""
    raise SystemExit(1)


def main() -> None:
    signal.signal(signal.SIGTERM, _stop)
    seed, folder = int(sys.argv[1]), Path(sys.argv[2]).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "line.json").write_text(json.dumps(run_one(seed, folder)))


if __name__ == "__main__":
    main()
