"""The checker finds the model clean, and what removing an ingredient breaks. All: `make model`."""

from __future__ import annotations

import pytest

from tests.model.run import CONFIGURATIONS, Configuration, check, missing_programs

FEW = (
    "quarantine, 1 slot, 2 workers",
    "confirmed, 1 slot, 2 workers",
    "no barrier",
    "cut later than the lease",
    "no linger after CLEAN",
)

pytestmark = [
    pytest.mark.debian,
    pytest.mark.skipif(bool(missing_programs()), reason=f"not installed: {' '.join(missing_programs())}"),
]


@pytest.mark.parametrize(
    "configuration", [each for each in CONFIGURATIONS if each.name in FEW], ids=lambda e: e.name
)
def test_the_checker_says_what_is_expected(configuration: Configuration) -> None:
    result = check(configuration)
    assert bool(result.violated) is not configuration.clean, "\n".join(result.events)
    assert bool(result.events) is not configuration.clean
