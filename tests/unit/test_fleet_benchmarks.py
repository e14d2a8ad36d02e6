"""The fleet's benchmarks still run; what they measure is not judged here."""

from __future__ import annotations

import pytest

from tests.benchmarks.fleet.every import BENCHMARKS
from tests.benchmarks.fleet.machinery import idle_times
from tests.benchmarks.fleet.table import as_markdown, jain


@pytest.mark.parametrize("name", BENCHMARKS)
def test_each_benchmark_runs_with_tiny_sizes(name: str) -> None:
    rows = list(BENCHMARKS[name](True))
    assert rows
    table = as_markdown(rows).splitlines()
    assert len(table) == 2 + len(rows)
    assert all(line.count("|") == 6 for line in table)


def test_idle_time_pairs_each_release_with_the_claim_that_fills_its_place() -> None:
    journal = [
        (0.0, "claimed", "a"),
        (0.0, "claimed", "b"),
        (1.0, "released", "b"),
        (1.25, "claimed", "c"),
        (2.0, "released", "a"),
        (2.5, "claimed", "d"),
        (3.0, "released", "c"),
        (9.0, "claimed", "d"),  # a further stream: no disk waited any more
    ]
    assert idle_times(journal, 2) == [0.25, 0.5]


def test_jains_index() -> None:
    assert jain([3, 3, 3]) == 1.0
    assert jain([1, 0, 0, 0]) == 0.25
    assert jain([0, 0]) == 1.0
