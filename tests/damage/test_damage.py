"""Every kind of object, damaged in every way: what is read is right, or one line names the object.

Never other bytes than were backed up, and never an exception that is not ours.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from tests.damage.bucket import Bucket, Damaged
from tests.damage.judge import Judge, kind_of
from workers.repository import Point

Harm = Callable[[bytes, np.random.Generator], bytes]
FLIPS = 6
"""Of each object; with both repositories, some hundred in all."""


def flipped(data: bytes, random: np.random.Generator) -> bytes:
    harmed = bytearray(data)
    harmed[random.integers(len(data))] ^= 1 << random.integers(8)
    return bytes(harmed)


def flipped_in_head(data: bytes, random: np.random.Generator) -> bytes:
    return flipped(data[:80], random) + data[80:]


def flipped_in_tail(data: bytes, random: np.random.Generator) -> bytes:
    return data[:-200] + flipped(data[-200:], random)


def truncated(data: bytes, random: np.random.Generator) -> bytes:
    return data[: random.integers(len(data))]


def extended(data: bytes, random: np.random.Generator) -> bytes:
    return data + random.bytes(random.integers(1, 300))


def doubled(data: bytes, random: np.random.Generator) -> bytes:
    return data + data


def emptied(data: bytes, random: np.random.Generator) -> bytes:
    return b""


def overwritten(data: bytes, random: np.random.Generator) -> bytes:
    return random.bytes(len(data))


def zeroed(data: bytes, random: np.random.Generator) -> bytes:
    return bytes(len(data))


def numbers_made_huge(data: bytes, random: np.random.Generator) -> bytes:
    """Eight bytes of the head or the tail say the largest number there is."""
    ends = [place for place in (*range(8, 80), *range(len(data) - 100, len(data) - 8)) if place >= 0]
    place = int(random.choice(ends)) if ends else 0
    return (data[:place] + b"\xff" * 8 + data[place + 8 :])[: len(data)]


HARMS: list[tuple[Harm, int]] = [
    (flipped, FLIPS),
    (flipped_in_head, FLIPS),
    (flipped_in_tail, FLIPS),
    (truncated, FLIPS),
    (numbers_made_huge, FLIPS),
    (extended, 2),
    (doubled, 1),
    (emptied, 1),
    (overwritten, 1),
    (zeroed, 1),
]


VERIFIED = ("packs", "segments")
"""Kinds that `verify` answers for."""


@pytest.mark.parametrize("harm", HARMS, ids=lambda harm: harm[0].__name__)
def test_what_is_read_of_a_damaged_object_is_right_or_says_so(judge: Judge, harm: tuple[Harm, int]) -> None:
    make, times = harm
    random = np.random.default_rng(20261128)
    said: dict[str, int] = {}
    for key, data in judge.bucket.objects.items():
        for _ in range(times):
            harmed = make(data, random)
            if harmed != data:
                said[kind_of(key)] = said.get(kind_of(key), 0) + len(judge.judge(key, harmed))
    unsaid = {kind for kind, count in said.items() if not count}
    if make in (extended, doubled):
        unsaid.discard("known")  # read by ranges alone: nobody sees what lies behind
    assert not unsaid, f"no damage to these was ever found: {unsaid}"


def test_an_object_that_is_gone_is_named(judge: Judge) -> None:
    """Or is what it is without it: not at work, not ended, nothing known."""
    for key in judge.bucket.objects:
        for name, found in judge.readings_without(key):
            if kind_of(key) in ("runs/open", "runs/vms", "runs/result", "known", "points"):
                assert found is None or found == b"" or isinstance(found, list | Damaged), (name, found)
            elif kind_of(key) == "supplements":  # then it is the point as it was committed
                contents = judge.bucket.contents.values()
                assert isinstance(found, Point | list) or found in contents or "segments/" in str(found), name
            else:
                assert isinstance(found, Damaged), (name, found)
                assert key in found.text or key == "config", (name, found)


def test_an_object_in_another_ones_place_is_damaged(judge: Judge) -> None:
    objects, swapped = judge.bucket.objects, 0
    for key, data in objects.items():
        for other, instead in objects.items():
            if key != other and kind_of(key) == kind_of(other) and data != instead:
                swapped += len(judge.judge(key, instead))
    assert swapped > 100


def test_an_object_of_another_time_is_never_believed_half(judge: Judge, another: Bucket) -> None:
    """Of the same key, sealed with the same keys: what it contradicts is named, or it is right."""
    replayed = 0
    for key, data in another.objects.items():
        if key in judge.bucket.objects and kind_of(key) != "known":  # hints, proved by whoever uses them
            replayed += len(judge.judge(key, data, other_object=True))
    assert replayed


def test_verify_names_every_damaged_object(judge: Judge) -> None:
    random = np.random.default_rng(20261129)
    used = [key for key in judge.used_by_points() if kind_of(key) in VERIFIED]
    assert {kind_of(key) for key in used} == set(VERIFIED)
    for key in used:
        data = judge.bucket.objects[key]
        for make in (flipped, flipped_in_head, flipped_in_tail, truncated, extended, emptied, overwritten):
            harmed = make(data, random)
            assert key in judge.verified(key, harmed), (key, make.__name__)
        assert key in judge.verified(key, None), key
    assert judge.verified(used[0], judge.bucket.objects[used[0]]) == set()
