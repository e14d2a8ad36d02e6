"""Breaks a mutant in a copy of the tree, and looks whether its tests fail there.

The copy is what is imported, by the tests and by every process that they start. That is looked at before
anything else: a mutant in a tree that nobody imports is never seen.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tests.mutants.mutant import Mutant
from tests.source_tree import CODE, ROOT, copy_sources, environment_of

PARTS = (*CODE, "tests", "docs", "pyproject.toml")
PACKAGES = ("workers", "scheduler", "infra", "tests")
LONGEST = 1200.0
"""Seconds for the tests of one mutant, or for all of them in the whole tree."""

LONGEST_TEST = 120
"""Seconds for one test: what is broken may never come."""

_PYTEST = (
    sys.executable,
    "-m",
    "pytest",
    "-q",
    "-rfE",
    "-p",
    "no:cacheprovider",
    f"--timeout={LONGEST_TEST}",
)
_FAILED = re.compile(r"^(?:FAILED|ERROR) ([^\[\s]+)", re.MULTILINE)


class CannotCheck(Exception):
    """The table does not fit the tree, or tests fail in a tree that is whole."""


@dataclass(frozen=True)
class Result:
    """`missing` are the tests that did not fail; `said` is the end of what pytest printed."""

    mutant: Mutant
    missing: tuple[str, ...]
    seconds: float
    said: str


class Check:
    """Makes copies of `root` in `folder`, and removes each when it is no longer needed."""

    def __init__(self, folder: Path, root: Path = ROOT, packages: Sequence[str] = PACKAGES) -> None:
        self._folder = folder
        self._root = root
        self._parts = [part for part in PARTS if (root / part).exists()]
        self._packages = packages

    def whole(self, mutants: Sequence[Mutant], jobs: int) -> None:
        """Looks at the table, at what is imported, and that all the tests pass in a tree that is whole.
        Raises CannotCheck."""
        for each in mutants:
            self._check_text(each)
        tree = self._copy("0", {})
        self._check_imports(tree)
        tests = sorted({test for each in mutants for test in each.tests})
        code, said = _pytest(tree, ["-n", str(jobs), "--dist", "loadfile", *tests])
        if code != 0:
            raise CannotCheck(f"in a tree that is whole, tests of the table do not pass:\n{_end(said)}")
        shutil.rmtree(tree)

    def each(self, mutants: Sequence[Mutant], jobs: int) -> Iterator[Result]:
        """As soon as it is known, `jobs` at a time."""
        with ThreadPoolExecutor(jobs) as threads:
            running = [threads.submit(self._one, str(at), each) for at, each in enumerate(mutants, 1)]
            for done in as_completed(running):
                yield done.result()

    def _one(self, name: str, mutant: Mutant) -> Result:
        began = time.monotonic()
        tree = self._copy(name, {mutant.file: (mutant.text, mutant.broken)})
        _, said = _pytest(tree, mutant.tests)
        shutil.rmtree(tree)
        failed = set(_FAILED.findall(said))
        missing = tuple(test for test in mutant.tests if test not in failed)
        return Result(mutant, missing, time.monotonic() - began, _end(said))

    def _check_text(self, mutant: Mutant) -> None:
        file = self._root / mutant.file
        count = file.read_text(encoding="utf-8").count(mutant.text) if file.is_file() else 0
        if count != 1:
            raise CannotCheck(f'mutant "{mutant.name}": {mutant.file} holds its text {count} times, not once')

    def _check_imports(self, tree: Path) -> None:
        program = "import importlib, sys; print(*(importlib.import_module(n).__file__ for n in sys.argv[1:]))"
        done = subprocess.run(
            [sys.executable, "-c", program, *self._packages],
            capture_output=True,
            text=True,
            cwd="/",
            env=environment_of(tree),
        )
        found = done.stdout.split()
        if done.returncode or not all(Path(file).is_relative_to(tree) for file in found):
            raise CannotCheck(f"the copy is not what is imported: {done.stdout}{done.stderr}")

    def _copy(self, name: str, changes: dict[str, tuple[str, str]]) -> Path:
        return copy_sources(self._folder / name, changes, self._parts, self._root)


def _pytest(tree: Path, arguments: Sequence[str]) -> tuple[int, str]:
    """Its exit code, and what it printed."""
    process = subprocess.Popen(
        [*_PYTEST, f"--basetemp={tree / 't'}", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=tree,
        env=environment_of(tree),
        start_new_session=True,
    )
    said = ""
    try:
        said, _ = process.communicate(timeout=LONGEST)
    except subprocess.TimeoutExpired:
        said = f"no end after {LONGEST:.0f} s"
    finally:
        with suppress(ProcessLookupError):  # what a test has left running in its session
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    return process.returncode, said


def _end(said: str) -> str:
    return "\n".join(said.splitlines()[-30:])
