"""The table of mutants fits the tree and the page, and the check sees what it should. All: `make mutants`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.mutants.check import CannotCheck, Check
from tests.mutants.mutant import MUTANTS, Mutant, table
from tests.source_tree import ROOT

HALF = Mutant(
    "half", "a sum is a sum", "workers/sums.py", "a + b", "a - b", ("tests/test_sums.py::test_a_sum",)
)


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_row_fits_the_tree(mutant: Mutant) -> None:
    assert (ROOT / mutant.file).read_text(encoding="utf-8").count(mutant.text) == 1
    assert mutant.broken != mutant.text
    assert mutant.tests
    for test in mutant.tests:
        file, _, name = test.partition("::")
        assert f"\ndef {name}(" in (ROOT / file).read_text(encoding="utf-8")


def test_names_are_given_once() -> None:
    assert len({each.name for each in MUTANTS}) == len(MUTANTS)


def test_the_page_has_this_table() -> None:
    """`python -m tests.mutants --table` prints it."""
    assert table() in (ROOT / "docs" / "testing.md").read_text(encoding="utf-8")


@pytest.fixture
def check(tmp_path: Path) -> Check:
    """Of a small tree, whose second test asks a process of its own."""
    root = tmp_path / "root"
    for package in ("workers", "tests"):
        (root / package).mkdir(parents=True)
        (root / package / "__init__.py").touch()
    (root / "pyproject.toml").write_text("[tool.pytest.ini_options]\naddopts = '--import-mode=importlib'\n")
    (root / "workers" / "sums.py").write_text("def add(a, b):\n    return a + b\n")
    (root / "tests" / "test_sums.py").write_text(
        "import subprocess, sys\n"
        "from workers.sums import add\n"
        "def test_a_sum():\n    assert add(2, 3) == 5\n"
        "def test_a_sum_elsewhere():\n"
        "    program = 'from workers.sums import add; print(add(2, 3))'\n"
        "    done = subprocess.run([sys.executable, '-c', program], cwd='/', capture_output=True)\n"
        "    assert done.stdout == b'5\\n'\n"
        "def test_nothing():\n    pass\n"
    )
    (tmp_path / "copies").mkdir()
    return Check(tmp_path / "copies", root, ("workers", "tests"))


def with_tests(*names: str) -> Mutant:
    tests = tuple(f"tests/test_sums.py::{name}" for name in names)
    return Mutant(HALF.name, HALF.keeps, HALF.file, HALF.text, HALF.broken, tests)


def test_a_mutant_is_seen_in_the_copy_by_every_process_and_the_tree_stays_whole(
    check: Check, tmp_path: Path
) -> None:
    mutant = with_tests("test_a_sum", "test_a_sum_elsewhere")
    check.whole([mutant], 1)
    [result] = check.each([mutant], 1)
    assert result.missing == ()
    assert "a + b" in (tmp_path / "root" / "workers" / "sums.py").read_text()
    assert list((tmp_path / "copies").iterdir()) == []


def test_each_test_that_is_named_has_to_see_it(check: Check) -> None:
    [result] = check.each([with_tests("test_a_sum", "test_nothing")], 1)
    assert result.missing == ("tests/test_sums.py::test_nothing",)


def test_a_test_that_is_not_there_has_not_seen_it(check: Check) -> None:
    [result] = check.each([with_tests("test_of_old")], 1)
    assert result.missing == ("tests/test_sums.py::test_of_old",)
    assert "not found" in result.said


@pytest.mark.parametrize(("text", "times"), [("a * b", 0), ("a", 3)])
def test_a_text_that_is_not_there_once_names_its_row(check: Check, text: str, times: int) -> None:
    moved = Mutant("moved", "-", HALF.file, text, "-", HALF.tests)
    with pytest.raises(CannotCheck, match=rf'"moved": workers/sums.py holds its text {times} times'):
        check.whole([moved], 1)


def test_tests_that_fail_in_a_whole_tree_show_nothing(check: Check, tmp_path: Path) -> None:
    (tmp_path / "root" / "workers" / "sums.py").write_text("def add(a, b):\n    return a + b + 1\n")
    with pytest.raises(CannotCheck, match="in a tree that is whole, tests of the table do not pass"):
        check.whole([with_tests("test_a_sum")], 1)
