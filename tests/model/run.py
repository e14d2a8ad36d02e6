"""Checks the model in slots.pml: as it is, without a fault; and with one ingredient removed, with one.

    make model                              or: python -m tests.model.run [NAME ...]

Prints one table. Exit status 1 when a clean configuration has a counterexample or a broken one has none.
What the rows mean: docs/fleet-model.md.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

MODEL = Path(__file__).with_name("slots.pml")
MEMORY_LIMIT = 3000
"""MiB for one configuration."""
AT_A_TIME = 2
"""Configurations, each on one core."""


@dataclass(frozen=True)
class Configuration:
    name: str
    defines: str
    clean: bool
    """No counterexample is expected, and every state is looked at."""
    shortest: bool = False
    """Look for the shortest counterexample, breadth first. Else the first one within `DEPTH` steps."""


def _clean(name: str, defines: str) -> Configuration:
    return Configuration(name, defines, clean=True)


def _broken(name: str, defines: str) -> Configuration:
    return Configuration(name, f"{defines} ONLY_THE_CAP", clean=False, shortest=True)


def _broken_deep(name: str, defines: str) -> Configuration:
    return Configuration(name, f"{defines} ONLY_THE_CAP", clean=False)


DEPTH = 2500
"""Steps of the checker in a counterexample that need not be the shortest; an event is some ten."""

CONFIRMED = "CONFIRMED PAUSES"
TWO = f"{CONFIRMED} CAP=2 WORKERS=2 MESSAGES=1"
CONFIGURATIONS = [
    _clean("quarantine, 1 slot, 2 workers", ""),
    _clean("quarantine, 2 slots, 2 workers", "CAP=2 WORKERS=2 MESSAGES=1"),
    _clean("confirmed, 1 slot, 2 workers", CONFIRMED),
    _clean("confirmed, 2 slots, 3 workers, no restart", f"{CONFIRMED} CAP=2 WORKERS=3 MESSAGES=1 NO_RESTART"),
    _clean("confirmed, 2 slots, 2 workers, one restart", f"{TWO} RESTARTS=1"),
    _broken("no barrier", "NO_BARRIER"),
    _broken("barrier shorter than L + Q", "BARRIER=3"),
    _broken("no quarantine", "NO_QUARANTINE"),
    _broken("no linger after CLEAN", "LINGER=0"),
    _broken("cut later than the lease", "CUT_AFTER=3"),
    _broken("no cut", "NO_CUT"),
    _broken("forgotten streams go on, not written down", "NO_REASSERTION"),
    Configuration("forgotten streams are told FENCE", "FENCE_FORGOTTEN", clean=False, shortest=True),
    _broken("claim not single-use", "CLAIM_TWICE"),
    Configuration("fence not checked", "NO_FENCE", clean=False, shortest=True),
    _broken("pauses, and no count", "PAUSES"),
    _clean("no look at the lease", "NO_LOOK"),
    _clean("an expired grant can be claimed", "CLAIM_EXPIRED"),
    _clean("overdue, but renewed, goes on", "OVERDUE_GOES_ON"),
    _broken("confirmed: no barrier", f"{CONFIRMED} NO_BARRIER"),
    _broken_deep("confirmed: barrier shorter than F + Q", f"{CONFIRMED} BARRIER=2"),
    _clean("confirmed: barrier of F + Q", f"{CONFIRMED} BARRIER=3"),
    _broken("confirmed: no quarantine", f"{CONFIRMED} NO_QUARANTINE"),
    _broken("confirmed: no linger after CLEAN", f"{CONFIRMED} LINGER=0"),
    _broken("confirmed: claim not single-use", f"{CONFIRMED} CLAIM_TWICE"),
    _broken_deep("confirmed: no look at the lease", f"{CONFIRMED} NO_LOOK"),
    _broken_deep("confirmed: overdue, but renewed, goes on", f"{CONFIRMED} OVERDUE_GOES_ON"),
    _broken_deep("confirmed: fence not checked", f"{CONFIRMED} NO_FENCE"),
    _broken("confirmed: an expired grant can be claimed", f"{CONFIRMED} CLAIM_EXPIRED"),
    _broken_deep("confirmed: no count after a barrier", f"{CONFIRMED} NO_COUNT_AFTER_BARRIER"),
    _broken_deep("confirmed: an older answer is believed", f"{CONFIRMED} OLD_ANSWER_BELIEVED"),
    _broken_deep("confirmed: HELD since the question explains", f"{TWO} NO_RESTART HELD_SINCE_COUNTS"),
    _broken_deep("confirmed: re-asserted counts as open", f"{TWO} RESTARTS=1 REASSERTED_COUNTS"),
    _broken_deep("confirmed: ended since the question covers", f"{TWO} RESTARTS=1 RESTING_COVERS_LATE"),
    _broken_deep("confirmed: never opened, at rest, covers", f"{TWO} RESTARTS=1 RESTING_COVERS_UNOPENED"),
    _broken_deep("confirmed: a release shows it was open", f"{TWO} RESTARTS=1 RELEASE_PROVES"),
    _broken_deep("known limit: pause before the connect", f"{CONFIRMED} NO_RESTART PAUSE_BEFORE_CONNECT"),
    _broken_deep("known limit: pause in the handshake", f"{CONFIRMED} NO_RESTART PAUSE_IN_HANDSHAKE"),
    _broken_deep("known limit: unplugged, and counted a moment", f"{CONFIRMED} NO_RESTART UNPLUGS_FIRST"),
]


@dataclass(frozen=True)
class Result:
    states: int
    transitions: int
    depth: int
    seconds: float
    """Of processor time, so that a busy machine does not matter."""
    violated: str | None
    events: list[str]
    """The counterexample, one line an event; empty without one."""


def missing_programs() -> list[str]:
    return [program for program in ("spin", "gcc") if not shutil.which(program)]


def check(configuration: Configuration) -> Result:
    """Raises RuntimeError when the search was not exhaustive, CalledProcessError when nothing compiled."""
    with tempfile.TemporaryDirectory(prefix="cbtfleet-model-") as folder:
        shutil.copy(MODEL, folder)
        defines = [f"-D{define}" for define in configuration.defines.split()]
        _run(folder, ["spin", "-a", *defines, MODEL.name])
        options = ["-DSAFETY", "-DCOLLAPSE", "-DNOFAIR", f"-DMEMLIM={MEMORY_LIMIT}", "-DVECTORSZ=512"]
        if configuration.shortest:
            options.append("-DBFS")  # the first counterexample found has the fewest steps
        long = configuration.clean and configuration.defines.startswith(("CAP", "CONFIRMED"))
        level = "-O2" if long else "-O0"  # the compiler would take longer than the search
        _run(folder, ["gcc", level, "-w", *options, "-o", "pan", "pan.c"])
        depth = 5_000_000 if configuration.clean or configuration.shortest else DEPTH
        said, seconds = _search(folder, ["./pan", "-E", "-w22", f"-m{depth}"])
        if "MEMLIM bound" in said or (configuration.clean and "max search depth too small" in said):
            raise RuntimeError(f"{configuration.name}: the search was not exhaustive\n{said}")
        violated = re.search(r"^pan:\d+: (.*?) \(at depth", said, re.MULTILINE)
        trail = _run(folder, ["./pan", "-r"]) if violated else ""
        return Result(
            states=_number(r"([\d.e+]+) states, stored", said),
            transitions=_number(r"([\d.e+]+) transitions", said),
            depth=_number(r"depth reached (\d+)", said),
            seconds=seconds,
            violated=violated[1] if violated else None,
            events=[line.strip() for line in trail.splitlines() if "| barrier " in line],
        )


def _search(folder: str, command: list[str]) -> tuple[str, float]:
    """The output, and the processor time in seconds."""
    with subprocess.Popen(
        command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as pan:
        assert pan.stdout
        said = pan.stdout.read()
        _, status, used = os.wait4(pan.pid, 0)
        pan.returncode = os.waitstatus_to_exitcode(status)
    return said, used.ru_utime + used.ru_stime


def _run(folder: str, command: list[str]) -> str:
    """The output. pan's exit status says nothing, so only the compilers' counts."""
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if done.returncode and command[0] != "./pan":
        raise subprocess.CalledProcessError(done.returncode, command, done.stdout, done.stderr)
    return done.stdout


def _number(pattern: str, text: str) -> int:
    found = re.search(pattern, text)
    if not found:
        raise RuntimeError(f"the checker did not say what it did:\n{text}")
    return int(float(found[1]))


def _verdict(configuration: Configuration, result: Result) -> str:
    if not result.violated:
        return "holds, all states" if configuration.clean else f"not violated within {result.depth} steps"
    length = "the shortest" if configuration.shortest else "not the shortest"
    return f"violated, {len(result.events)} events ({length})"


def main(names: list[str]) -> int:
    missing = missing_programs()
    if missing:
        print(f"make model needs {' and '.join(missing)}: apt-get install {' '.join(missing)}")
        return 1
    chosen = [each for each in CONFIGURATIONS if not names or any(name in each.name for name in names)]
    wrong = 0
    print(f"{'configuration':46} {'states':>9} {'transitions':>11} {'s':>6}  verdict")
    with ThreadPoolExecutor(AT_A_TIME) as pool:
        for each, result in zip(chosen, pool.map(check, chosen), strict=True):
            unexpected = each.clean == bool(result.violated)
            wrong += unexpected
            print(
                f"{each.name:46} {result.states:9,} {result.transitions:11,} {result.seconds:6.1f}"
                f"  {_verdict(each, result)}{'  <- NOT EXPECTED' if unexpected else ''}",
                flush=True,
            )
            if unexpected or names:
                print("\n".join(f"    {event}" for event in result.events))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
