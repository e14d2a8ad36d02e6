"""What a killed process was writing into the store goes when a later run ends."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

from infra.simulator import DiskSpec, PoolSpec, VmSpec
from tests.unit.scheduler.conftest import Site
from workers.repository import AccessDenied, Repository
from workers.repository.directory_store import ABANDONED_AFTER, UNFINISHED

SPEC = PoolSpec(hosts=1, vms=(VmSpec("db", (DiskSpec(1 << 20, "root"),)),))


def test_it_is_removed_and_what_is_being_written_stays(make_site: Callable[[PoolSpec], Site]) -> None:
    site = make_site(SPEC)
    folder = site.folder / "store" / UNFINISHED
    for name, age in (("dead", ABANDONED_AFTER + 60), ("alive", 60)):
        (folder / name).write_bytes(b"half")
        written = (folder / name).stat().st_mtime - age
        os.utime(folder / name, (written, written))
    assert site.night().status == "succeeded"
    assert [path.name for path in folder.iterdir()] == ["alive"]


def test_that_it_cannot_be_removed_fails_no_run_and_is_said(
    make_site: Callable[[PoolSpec], Site], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def denied(_: Repository) -> int:
        raise AccessDenied("cannot delete abandoned files")

    monkeypatch.setattr(Repository, "remove_abandoned_writes", denied)
    assert make_site(SPEC).night().status == "succeeded"
    assert "of dead writers stay in the store: cannot delete abandoned files" in caplog.text
