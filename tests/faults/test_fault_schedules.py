"""A few fixed schedules, and the proof that the judge can say no."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.faults.__main__ import TREE, Line, play, summary
from tests.faults.opens import blocks_read, most_at_once, most_opens
from tests.faults.plan import KINDS, PAUSES, draw
from tests.faults.samples import Look, longest_rest
from tests.source_tree import copy_sources

SEEDS = (4488, 2170)
"""Small ones, with a file store."""

BROKEN_SEED = 4488
"""Its hosts need 3 s to free a slot, which is longer than a slot rests after a clean end. It is among the
SEEDS, so nothing but what is broken makes the difference."""

TOO_EARLY = {
    "workers/fleet/lua/prelude/slot.lua": (
        "local function move(slot, state, expires)\n",
        "local function move(slot, state, expires)\n  state = state == 'QUARANTINE' and 'FREE' or state\n",
    )
}
"""A limiter that gives a slot to the next one while the host still counts the last one's connection."""


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Line]:
    """Lines by name; two schedules at a time."""
    folder = tmp_path_factory.mktemp("faults")
    tree = copy_sources(folder / "tree", parts=TREE)
    broken = copy_sources(folder / "broken-tree", TOO_EARLY, parts=TREE)
    with ThreadPoolExecutor(2) as pool:
        running = {
            "broken": pool.submit(play, BROKEN_SEED, folder / "broken", broken),
            **{str(seed): pool.submit(play, seed, folder / f"seed-{seed}", tree) for seed in SEEDS},
        }
        return {name: line.result() for name, line in running.items()}


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", SEEDS)
def test_a_schedule_leaves_everything_right(played: dict[str, Line], seed: int) -> None:
    line = played[str(seed)]
    assert line["error"] is None
    assert line["violations"] == []
    assert line["faults"]
    assert len(line["runs"]) == len(draw(seed).runs)
    assert line["compared"] >= 4
    assert 1 <= line["measured"]["peak"] <= draw(seed).cap
    assert "without any violation" in summary([line])


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_limiter_that_releases_too_early_is_found_out(played: dict[str, Line]) -> None:
    line = played["broken"]
    assert line["error"] is None
    assert any(words.startswith(("cap:", "reject:")) for words in line["violations"]), line


def test_a_seed_says_everything() -> None:
    assert draw(7) == draw(7)
    assert draw(7) != draw(8)
    drawn = [draw(seed) for seed in range(1, 201)]
    assert {kind for schedule in drawn for kind in schedule.kinds} == set(KINDS)
    for schedule in drawn:
        assert schedule.cap <= schedule.limit
        assert not schedule.pauses or schedule.limit == schedule.cap
        assert 4 <= sum(len(vm.disks) for vm in schedule.vms) <= 8
        assert PAUSES & set(schedule.kinds) or not schedule.pauses


def test_how_many_at_once() -> None:
    assert most_at_once([]) == 0
    assert most_at_once([(0, 1), (1, 2)]) == 1, "one ends as the next begins"
    assert most_at_once([(0, 3), (1, 2), (1.5, 4)]) == 3


def entry(
    opened: float, answered: float | None, closed: float | None, vdi: str = "d", outcome: str = "open"
) -> Line:
    times = {"opened": opened, "answered": answered, "closed": closed}
    return {"host": "h", "vdi": vdi, "outcome": outcome, **times}


def test_opens_in_progress_end_with_their_answer_or_their_connection() -> None:
    one, other = entry(0, 2, 9), entry(1, None, 3)
    assert most_opens([one, other], "host") == 2
    assert most_opens([one, entry(2, 5, 9)], "vdi") == 1
    assert most_opens([one, entry(1, 5, 9, vdi="e")], "vdi") == 1
    assert most_opens([one, entry(1, None, 1, outcome="rejected-busy")], "host") == 1
    assert most_opens([entry(0, None, None), entry(100, 101, 102)], "host") == 2


def test_how_long_a_slot_rests_for_nothing() -> None:
    """Slot 0 rests from 1 to 9, and its host has the connection until 4."""
    looks = [Look(t, "h", 1, {(0, 7)} if 1 <= t <= 9 else set()) for t in range(12)]
    held = {"host": "h", "opened": 0, "freed": 4, "outcome": "disconnected"}
    assert longest_rest(looks, [held]) == 5
    assert longest_rest(looks, []) == 8
    assert longest_rest(looks, [{**held, "freed": None}]) == 0


def test_blocks_are_read_when_their_bytes_were_sent() -> None:
    reads = [{"vdi": "d", "offset": 65536, "length": 131072}, {"vdi": "d", "offset": 524288, "length": 512}]
    assert blocks_read(reads) == {"d": {1, 2, 8}}


def test_a_text_that_moved_cannot_be_broken(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no longer holds"):
        copy_sources(tmp_path / "tree", {"workers/errors.py": ("not there", "")})
