"""Every record is read as it was written; what is no such record is one line that says where and what."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import MISSING, fields, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.policies.policy import Retry, Selector
from scheduler.policies.requests import RunRequest, Trigger
from scheduler.runs.values import (
    FailedDisk,
    OpenRun,
    PlannedDisk,
    PlannedVm,
    RunFacts,
    SkippedDrive,
    VmFacts,
)
from tests.fleet_clock import FULL_DISK
from tests.run_records import result_row, run_result
from workers.fleet import DiskFacts
from workers.messages import Grant
from workers.records import Record, RecordUnreadable, RecordUnwritable
from workers.repository import VmMetadata
from workers.stream.reports import Report

TIME = "2026-11-22T01:00:00Z"
REQUEST = RunRequest(
    "lab",
    ("web",),
    "nightly",
    Selector(tags=("backup",)),
    Selector(names=("tmp*",)),
    2.5,
    Retry(attempts=2),
    Trigger(TIME, None, None),
    Selector(uuids=("u",)),
    "skip",
)
RESULT = run_result(result_row(), warnings=("a snapshot stays",))
VM = VmFacts(
    "web",
    "a snapshot",
    TIME,
    "the run before",
    VmMetadata("vms/u-web/one", 3),
    (FailedDisk("u-data", "data", "no"),),
    (SkippedDrive(None, "drive 3", "an empty CD drive"),),
    ("slow",),
    rows=(result_row(),),
)
SAMPLES: list[Record] = [
    FULL_DISK,
    RunFacts(REQUEST, TIME, result=RESULT),
    OpenRun(REQUEST, TIME, {"u-web": "web"}),
    VM,
    PlannedVm(VM, (PlannedDisk("u-root", "a snapshot", 1 << 20, ("h1", "h2"), FULL_DISK),)),
    RESULT,
    Report("claiming", owner="node/1", grant=Grant("lab", "h1", 0, 1, "run", "disk")),
]
BY_ITS_OWN_RULES = "metadata", "vms"
"""What a restore point says too, and a map with any names."""


def name_of(record: Record) -> str:
    return type(record).__name__


def why(kind: type[Record], tree: object) -> str | None:
    """What is said of it; None when it is read."""
    line = refusal(kind, json.dumps(tree).encode())
    return None if line is None else line.removeprefix("here: ")


def refusal(kind: type[Record], data: bytes) -> str | None:
    try:
        kind.read(data, "here")
    except RecordUnreadable as error:
        return str(error)
    return None


def places(node: object, path: tuple[str, ...] = ()) -> Iterator[tuple[Any, str, str]]:
    """Every member of the tree, however deep: what holds it, its name, and its path in words."""
    if isinstance(node, dict):
        for name, value in node.items():
            yield node, name, ".".join((*path, name))
            yield from places(value, (*path, name))
    elif isinstance(node, list):
        for number, value in enumerate(node):
            yield from places(value, (*path, str(number)))


def changed(record: Record) -> Iterator[tuple[Any, Any, str, str]]:
    """A fresh tree for each of its members, and where that member is."""
    for number in range(len(list(places(json.loads(record.write()))))):
        tree = json.loads(record.write())
        yield tree, *list(places(tree))[number]


@pytest.fixture(params=SAMPLES, ids=name_of)
def record(request: pytest.FixtureRequest) -> Record:
    sample: Record = request.param
    return sample


def test_every_kind_of_record_is_looked_at_here() -> None:
    assert {type(sample) for sample in SAMPLES} == set(Record.__subclasses__())


def test_a_record_is_read_as_it_was_written(record: Record) -> None:
    assert type(record).read(record.write(), "here") == record
    assert list(record.members()) == [member.name for member in fields(record) if member.name != "version"]


def test_what_has_no_default_must_be_there(record: Record) -> None:
    needed = {each.name for each in fields(record) if MISSING is each.default is each.default_factory}
    assert needed
    for name in needed:
        tree = json.loads(record.write())
        del tree[name]
        assert why(type(record), tree) == f"{name} is missing"


def test_a_member_that_is_missing_or_has_a_default_is_all_there_is_to_tell(record: Record) -> None:
    for tree, holder, name, path in changed(record):
        del holder[name]
        assert why(type(record), tree) in (None, f"{path} is missing")


def test_an_unknown_member_is_named_wherever_it_is(record: Record) -> None:
    for tree, holder, _, path in changed(record):
        inside, _, _ = path.rpartition(".")
        if inside.rpartition(".")[2] not in BY_ITS_OWN_RULES:
            holder["colour"] = "blue"
            where = f"{inside}.colour" if inside else "colour"
            assert why(type(record), tree) == (
                f"unknown member {where}; was it written by a newer version of cbtfleet?"
            )


def test_a_member_of_the_wrong_type_is_named_wherever_it_is(record: Record) -> None:
    for tree, holder, name, path in changed(record):
        holder[name] = [["s3cret"]]
        line = str(why(type(record), tree))
        if name == "version":
            assert "written by another version of cbtfleet" in line
        else:
            assert line.startswith((f"{path}: ", f"{path}.0: "))
        assert "s3cret" not in line


def test_the_name_of_an_unknown_member_makes_no_second_line_and_no_long_one() -> None:
    tree = json.loads(VM.write())
    assert str(why(VmFacts, tree | {"a\nb\x1b": 1})).startswith("unknown member a?b?; ")
    assert len(str(why(VmFacts, tree | {"x" * 10_000: 1}))) < 200


def test_numbers_are_no_texts_and_texts_no_numbers(record: Record) -> None:
    tree = json.loads(FULL_DISK.write())
    assert why(DiskFacts, tree | {"changed_bytes": "1"}) == "changed_bytes: Input should be a valid integer"
    assert why(DiskFacts, tree | {"sr": 1}) == "sr: Input should be a valid string"


@pytest.mark.parametrize("version", [0, 2, "1", None, 1.5])
def test_another_version_is_said_whatever_else_is_different(record: Record, version: object) -> None:
    tree = json.loads(record.write())
    line = "it was written by another version of cbtfleet; use that one, or upgrade this one"
    assert why(type(record), tree | {"version": version}) == line
    assert why(type(record), {"version": version, "colour": "blue"}) == line
    for tree, holder, name, _ in changed(record):
        if name == "version":
            holder[name] = version
            assert why(type(record), tree) == line


@pytest.mark.parametrize(
    "data", [b"", b"{", b"not JSON", b"\xff\xfe", b'{"name": "\xff"}', b'{"name": "\\ud800"}', b"[" * 100_000]
)
def test_what_is_not_json_is_said(data: bytes) -> None:
    with pytest.raises(RecordUnreadable, match=r"^VM v of run r: it is not JSON$"):
        VmFacts.read(data, "VM v of run r")


@pytest.mark.parametrize("tree", [None, 1, "text", [], [[]], True])
def test_what_is_no_object_is_said(record: Record, tree: object) -> None:
    assert why(type(record), tree) == "Input should be an object"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(data=st.binary() | JSON.map(lambda tree: json.dumps(tree).encode()))
def test_nothing_but_one_line_comes_of_anything(data: bytes) -> None:
    for sample in SAMPLES:
        assert re.fullmatch(r"here: [^\n]+", refusal(type(sample), data) or "")


@given(number=st.integers(min_value=0), tree=JSON)
def test_nothing_but_one_line_comes_of_anything_within_a_record(number: int, tree: object) -> None:
    sample = SAMPLES[number % len(SAMPLES)]
    whole = json.loads(sample.write())
    holders = list(places(whole))
    holder, name, _ = holders[number % len(holders)]
    holder[name] = tree
    assert "\n" not in (why(type(sample), whole) or "")


def test_a_name_that_is_no_unicode_is_not_written() -> None:
    with pytest.raises(RecordUnwritable, match="not valid Unicode"):
        replace(VM, name="\udcff").write()
