"""What is made of a pool's answer that no real or simulated pool gives. Only here is the pool a double."""

from __future__ import annotations

import base64
import dataclasses
from datetime import UTC, datetime
from typing import Any

import pytest

from scheduler.planning.changes import BadBitmap, changes_since
from scheduler.pool_objects.snapshots import DiskSnapshot, iso_time
from workers.extents import BitmapError
from workers.repository import DiskPoint
from workers.xenapi import XapiFailure

MiB = 1 << 20
DISK = DiskSnapshot(
    "new", "u-new", "live", "u-live", "root", "0", "sr", 8 * MiB, True, "2026-01-02T03:04:05Z"
)
LAST = DiskPoint(
    vdi="u-live",
    name="root",
    userdevice="0",
    virtual_size=8 * MiB,
    snapshot="u-base",
    sr="sr",
    mode="full",
    reason="first",
    changed_bytes=0,
    read_bytes=0,
    stored_bytes=0,
    segments=(),
)


class Pool:
    """Answers the four calls; `answer` is what list_changed_blocks gives."""

    def __init__(self, answer: str = "", sr: str = "sr", size: int = 8 * MiB, base_cbt: bool = True) -> None:
        self._answer = answer
        self._records: dict[str, Any] = {
            "VDI.get_by_uuid": "base",
            "VDI.get_record": {
                "SR": "sr-ref",
                "cbt_enabled": base_cbt,
                "virtual_size": str(size),
                "snapshot_time": "20260101T03:04:05Z",
                "uuid": "u-base",
                "other_config": {},
            },
            "SR.get_record": {"uuid": sr},
        }

    def call(self, method: str, *arguments: Any) -> Any:
        return self._records[method]

    def aside(self, method: str, *arguments: Any) -> Any:
        """It has no message.get."""

    def call_async(self, method: str, *arguments: Any) -> str:
        assert (method, arguments) == ("VDI.list_changed_blocks", ("base", "new"))
        if self._answer.startswith("SR_BACKEND"):
            raise XapiFailure(self._answer, ["", "why", ""], method)
        return self._answer


def bitmap(length: int) -> str:
    return base64.b64encode(b"\x80" + bytes(length - 1)).decode()


def test_a_bitmap_that_fits() -> None:
    changes = changes_since(Pool(bitmap(16)), DISK, LAST, None)  # type: ignore[arg-type]
    assert (changes.mode, changes.reason, changes.plan.blocks, changes.parent) == (
        "incremental",
        None,
        1,
        LAST,
    )


@pytest.mark.parametrize("length", [15, 17, 1])
def test_a_bitmap_of_the_wrong_length_is_never_read_from(length: int) -> None:
    with pytest.raises(BitmapError, match=f"has {length} bytes, a disk of 8388608 bytes needs 16"):
        changes_since(Pool(bitmap(length)), DISK, LAST, None)  # type: ignore[arg-type]


@pytest.mark.parametrize("answer", ["not base64!", "AAA"])
def test_an_answer_that_is_no_bitmap(answer: str) -> None:
    with pytest.raises(BadBitmap, match="not base64"):
        changes_since(Pool(answer), DISK, LAST, None)  # type: ignore[arg-type]


def test_a_disk_on_another_storage_repository_is_not_asked_about() -> None:
    changes = changes_since(Pool("not asked", sr="other"), DISK, LAST, None)  # type: ignore[arg-type]
    assert changes.mode == "full"
    assert "moved to another storage repository" in str(changes.reason)


@pytest.mark.parametrize(("base_cbt", "new_cbt"), [(False, True), (True, False)])
def test_without_tracking_at_both_ends_the_pool_is_not_asked(base_cbt: bool, new_cbt: bool) -> None:
    disk = dataclasses.replace(DISK, cbt_enabled=new_cbt)
    changes = changes_since(Pool("not asked", base_cbt=base_cbt), disk, LAST, None)  # type: ignore[arg-type]
    assert changes.mode == "full"
    which = "new" if base_cbt else "base"
    assert str(changes.reason) == f"changed-block tracking was off at the {which} snapshot"


def test_a_failure_that_a_full_would_not_heal_is_no_full() -> None:
    with pytest.raises(XapiFailure):
        changes_since(Pool("SR_BACKEND_FAILURE_46"), DISK, LAST, None)  # type: ignore[arg-type]


def test_xapi_times_are_written_as_iso() -> None:
    for text in ("20260102T03:04:05Z", "2026-01-02T03:04:05Z"):
        assert iso_time(text) == "2026-01-02T03:04:05Z"


@pytest.mark.parametrize("unset", ["", "19700101T00:00:00Z"])
def test_a_snapshot_without_a_time_was_made_now(unset: str) -> None:
    before = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"
    assert before <= iso_time(unset) <= f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"
