"""`python -m tests.faults`: schedules for many seeds, a few at a time, a JSONL report and a table."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from pathlib import Path
from typing import Any

from tests.source_tree import CODE, copy_sources

LONGEST = 420.0
"""Seconds for one schedule. Its own bounds are shorter: this one finds a driver that hangs."""

TREE = (*CODE, "tests/faults", "tests/__init__.py", "tests/source_tree.py")

Line = dict[str, Any]


def play(seed: int, folder: Path, tree: Path) -> Line:
    """One schedule in a process of its own, with everything it started ended afterwards.

    `tree`: where driver, fleet and pool are imported from.
    """
    folder.mkdir(parents=True)
    command = [sys.executable, "-m", "tests.faults.one", str(seed), str(folder.absolute())]
    with (folder / "driver.out").open("wb") as out:
        process = subprocess.Popen(
            command, cwd=tree, stdout=out, stderr=out, env={**os.environ, "PYTHONPATH": str(tree)}
        )
    (folder / "driver.pid").write_text(str(process.pid))
    try:
        process.wait(LONGEST)
    except subprocess.TimeoutExpired:
        process.terminate()
        process.wait(60)
    finally:
        _end_sessions(folder)
    with suppress(OSError):
        return dict(json.loads((folder / "line.json").read_text()))
    said = (folder / "driver.out").read_text(errors="replace")[-500:]
    return {"seed": seed, "error": f"the driver ended with {process.returncode}: {said}", "violations": []}


def _end_sessions(folder: Path) -> None:
    """What a driver that was killed has left running."""
    with suppress(OSError):
        for line in (folder / "sessions").read_text().split():
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(int(line), signal.SIGKILL)


def _stop_driver(folder: Path) -> None:
    """It ends what it has started; nothing to do when it has ended, or never began."""
    with suppress(OSError, ProcessLookupError):
        if not (folder / "line.json").exists():
            os.kill(int((folder / "driver.pid").read_text()), signal.SIGTERM)


def summary(lines: Iterable[Line]) -> str:
    lines = list(lines)
    kinds = Counter(kind for line in lines for kind in line.get("faults", ()))
    runs = Counter(run["status"] for line in lines for run in line.get("runs", ()))
    measured = [line["measured"] for line in lines if line.get("measured")]
    rows = [
        ("schedules", str(len(lines))),
        ("  without any violation", str(sum(not line["violations"] and not line["error"] for line in lines))),
        ("  with violations", str(sum(bool(line["violations"]) for line in lines))),
        ("  in which the driver itself failed", str(sum(bool(line["error"]) for line in lines))),
        ("faults that struck", str(sum(kinds.values()))),
        *((f"  {kind}", str(count)) for kind, count in sorted(kinds.items())),
        ("runs", str(sum(runs.values()))),
        *((f"  {status}", str(count)) for status, count in sorted(runs.items())),
        ("disks of restore points compared", str(sum(line.get("compared", 0) for line in lines))),
        ("bytes compared", f"{sum(line.get('compared_bytes', 0) for line in lines) / 1e9:.1f} GB"),
        ("violations", str(sum(len(line["violations"]) for line in lines))),
        ("connections opened", str(sum(one["opens"] for one in measured))),
        ("rejects", str(sum(one["rejects"] for one in measured))),
        (
            "most opens at once: of a host",
            str(max((one["opens_at_once_host"] for one in measured), default=0)),
        ),
        (
            "most opens at once: of a disk",
            str(max((one["opens_at_once_disk"] for one in measured), default=0)),
        ),
        ("longest rest of a slot", f"{max((one['longest_rest'] for one in measured), default=0):.1f} s"),
    ]
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {value:>9}" for name, value in rows)


def main() -> int:
    arguments = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    arguments.add_argument("--seed", type=int, default=1, help="of the first schedule")
    arguments.add_argument("--count", type=int, default=20)
    arguments.add_argument("--jobs", type=int, default=2, help="schedules at a time")
    arguments.add_argument("--report", type=Path, help="JSONL, appended to; default: in the folder")
    arguments.add_argument("--folder", type=Path, help="for the schedules' folders; default: a temporary one")
    arguments.add_argument("--keep", action="store_true", help="also the folders of schedules that went well")
    given = arguments.parse_args()
    folder = given.folder or Path(tempfile.mkdtemp(prefix="cbtfleet-faults-"))
    folder.mkdir(parents=True, exist_ok=True)
    report = given.report or folder / "report.jsonl"
    shutil.rmtree(folder / "tree", ignore_errors=True)
    tree = copy_sources((folder / "tree").absolute(), parts=TREE)
    lines: list[Line] = []
    began = time.monotonic()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with ThreadPoolExecutor(given.jobs) as pool:
        played = {}
        for seed in range(given.seed, given.seed + given.count):
            place = folder / f"seed-{seed}"
            shutil.rmtree(place, ignore_errors=True)
            played[pool.submit(play, seed, place, tree)] = place
        try:
            for done in as_completed(played):
                line = done.result()
                lines.append(line)
                with report.open("a") as file:
                    file.write(json.dumps(line) + "\n")
                _say(line, played[done], keep=given.keep)
        except KeyboardInterrupt:
            pool.shutdown(wait=False, cancel_futures=True)
            for place in played.values():
                _stop_driver(place)
    print()
    print(summary(lines))
    print(f"{time.monotonic() - began:.0f} s; each schedule's line: {report}")
    return int(any(line["violations"] or line["error"] for line in lines))


def _say(line: Line, folder: Path, *, keep: bool) -> None:
    bad = line["violations"] or ([line["error"]] if line["error"] else [])
    runs = " ".join(run["status"] for run in line.get("runs", ()))
    faults = ", ".join(line.get("faults", ())) or "no fault struck"
    print(
        f"seed {line['seed']}: {'BAD' if bad else 'ok'} ({line.get('seconds', 0)} s; runs: {runs}) {faults}",
        flush=True,
    )
    for words in bad:
        print(f"    {words}", flush=True)
    if bad:
        print(f"    kept in {folder}; again: make faults SEED={line['seed']} N=1", flush=True)
    elif not keep:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
