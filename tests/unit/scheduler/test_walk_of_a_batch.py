"""The walk of one batch in docs/architecture.md is the way that a batch really goes, file by file."""

from __future__ import annotations

import re
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from infra.simulator import DiskSpec, PoolSpec, Timing, VmSpec
from tests.unit.scheduler.conftest import Site

ROOT = Path(__file__).parents[3]
ROW = re.compile(r"^\| \d+ \| `(\S+\.py)` \| `(\S+)` \|", re.MULTILINE)

BETWEEN_PROCESSES = {"Pump.round", "StreamTask.run", "Grant.from_message"}
"""What a run in one process does not pass: there the test hands grants to `run_stream`."""
IN_A_FOLDER = ("workers/repository/directory_store.py", "DirectoryStore.put_if_absent")

SPEC = PoolSpec(
    hosts=1,
    vms=(VmSpec("web", (DiskSpec(1 << 20, "root"),)),),
    timing=Timing(login_failure_delay=0.1, data_destroy_wait=0.2, slot_release_delay=0.02),
)

Call = tuple[str, str]
"""File and function."""


def written_walk() -> list[Call]:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    return ROW.findall(page.partition("## The walk of one batch")[2].partition("\n## ")[0])


@contextmanager
def calls_of(wanted: set[Call]) -> Iterator[list[Call]]:
    """What is called in any thread that begins meanwhile, and in this one."""
    called: list[Call] = []

    def note(frame: FrameType, event: str, _: object) -> None:
        code = frame.f_code
        if event == "call" and code.co_filename.startswith(f"{ROOT}/"):
            call = (code.co_filename[len(f"{ROOT}/") :], code.co_qualname)
            if call in wanted:
                called.append(call)

    threading.setprofile(note)
    sys.setprofile(note)
    try:
        yield called
    finally:
        sys.setprofile(None)
        threading.setprofile(None)


def test_no_file_is_passed_twice() -> None:
    files = [file for file, _ in written_walk()]
    assert len(files) > 30
    assert sorted(set(files)) == sorted(files)


def test_a_batch_goes_that_way(make_site: Callable[[PoolSpec], Site]) -> None:
    site = make_site(SPEC)
    site.night()
    site.pool.write(site.disks[0], 0, b"changed")
    walk = [(file, name) for file, name in written_walk() if name not in BETWEEN_PROCESSES]
    walk = [IN_A_FOLDER if name == "S3Store.put_if_absent" else (file, name) for file, name in walk]
    with calls_of(set(walk)) as called:
        result = site.night()
    assert [(row.mode, row.error) for row in result.disks] == [("incremental", None)]
    rest = iter(called)
    for number, step in enumerate(walk):
        assert step in rest, f"{step} is not called after {walk[:number][-1:]}"


def test_the_others_are_there_too() -> None:
    for file, name in written_walk():
        text = (ROOT / file).read_text(encoding="utf-8")
        owner, _, function = name.rpartition(".")
        assert f"def {function}(" in text, f"{file} has no {name}"
        assert not owner or f"class {owner}" in text, f"{file} has no {owner}"
