"""What writers leave in a folder when they die: never listed, and removed when it is sure, or harmless."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from workers.repository import directory_store
from workers.repository.directory_store import ABANDONED_AFTER, UNFINISHED, DirectoryStore
from workers.repository.store import AccessDenied, StoreError, StoreUnavailable

OLD = ABANDONED_AFTER + 60


@pytest.fixture
def store(tmp_path: Path) -> DirectoryStore:
    return DirectoryStore(tmp_path)


def unfinished(root: Path) -> list[Path]:
    return list((root / UNFINISHED).iterdir())


def untouched_for(path: Path, seconds: float) -> None:
    written = path.stat().st_mtime - seconds
    os.utime(path, (written, written))


def meanwhile(monkeypatch: pytest.MonkeyPatch, step: str, event: Callable[[], object]) -> None:
    """`event` happens once, as a writer has come to this call."""
    real = getattr(os, step)

    def strike(*arguments: object) -> object:
        monkeypatch.setattr(directory_store.os, step, real)
        event()
        return real(*arguments)

    monkeypatch.setattr(directory_store.os, step, strike)


def test_what_a_killed_writer_leaves_is_not_listed_and_goes_in_time(
    tmp_path: Path, store: DirectoryStore
) -> None:
    program = """if True:
        import os, stat, sys, time
        from pathlib import Path
        from workers.repository import directory_store

        def hang(descriptor):
            if not stat.S_ISDIR(os.fstat(descriptor).st_mode):
                print("written", flush=True)
                time.sleep(60)

        directory_store.os.fsync = hang
        directory_store.DirectoryStore(Path(sys.argv[1])).put_if_absent("packs/one", b"1")
    """
    with subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "written\n"
        writer.kill()
    [left] = unfinished(tmp_path)
    assert left.read_bytes() == b"1"
    assert list(store.list("")) == []
    assert store.remove_abandoned() == 0, "its writer could be alive"
    untouched_for(left, OLD)
    assert store.remove_abandoned() == 1
    assert unfinished(tmp_path) == []
    store.put_if_absent("packs/one", b"another")


@pytest.mark.parametrize(("seconds", "goes"), [(OLD, True), (ABANDONED_AFTER - 60, False), (-OLD, True)])
def test_age_is_counted_by_the_clock_of_the_file_system(
    tmp_path: Path, store: DirectoryStore, monkeypatch: pytest.MonkeyPatch, seconds: float, goes: bool
) -> None:
    """Also into the future: that clock was set back."""
    store.put_if_absent("one", b"1")
    left = tmp_path / UNFINISHED / "left"
    left.touch()
    untouched_for(left, seconds)
    monkeypatch.setattr("time.time", lambda: 0.0)  # whatever our own clock says
    assert store.remove_abandoned() == goes
    assert unfinished(tmp_path) == ([] if goes else [left])
    assert store.get("one") == b"1"


def test_a_slow_writer_whose_file_was_taken_for_abandoned_is_told_to_try_again(
    tmp_path: Path, store: DirectoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def taken_for_abandoned() -> None:
        [file] = unfinished(tmp_path)
        untouched_for(file, OLD)
        assert store.remove_abandoned() == 1

    store.put_if_absent("packs/first", b"0")
    meanwhile(monkeypatch, "link", taken_for_abandoned)
    with pytest.raises(StoreUnavailable, match="it was removed while it was written; try again"):
        store.put_if_absent("packs/one", b"1")
    assert [info.key for info in store.list("")] == ["packs/first"]
    store.put_if_absent("packs/one", b"1")
    assert store.get("packs/one") == b"1"


def test_a_file_that_is_removed_when_it_has_its_name_is_stored(
    tmp_path: Path, store: DirectoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def taken_for_abandoned() -> None:
        [file] = unfinished(tmp_path)
        untouched_for(file, OLD)
        assert store.remove_abandoned() == 1

    store.put_if_absent("packs/first", b"0")
    meanwhile(monkeypatch, "close", taken_for_abandoned)
    store.put_if_absent("packs/one", b"1")
    assert store.get("packs/one") == b"1"


def test_a_repository_of_two_file_systems_is_named(
    store: DirectoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(source: Path, target: Path) -> None:
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))

    monkeypatch.setattr(directory_store.os, "link", fails)
    with pytest.raises(StoreError, match=r"is on another file system .* put the whole repository on one"):
        store.put_if_absent("one", b"1")


def test_nothing_was_ever_written(tmp_path: Path, store: DirectoryStore) -> None:
    assert store.remove_abandoned() == 0
    assert list(tmp_path.iterdir()) == []
    tmp_path.rmdir()
    with pytest.raises(StoreUnavailable, match="is it still mounted"):
        store.remove_abandoned()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may do everything")
def test_a_scheduler_that_may_not_delete_is_told(tmp_path: Path, store: DirectoryStore) -> None:
    folder = tmp_path / UNFINISHED
    folder.mkdir()
    (folder / "left").touch()
    folder.chmod(0o500)
    with pytest.raises(AccessDenied, match="abandoned files"):
        store.remove_abandoned()
