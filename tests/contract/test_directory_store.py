"""What only a folder can do wrong: no space, no rights, no hard links, what a crash left."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from tests.durability import PowerCut
from workers.repository import directory_store
from workers.repository.directory_store import DirectoryStore
from workers.repository.store import (
    AccessDenied,
    ConditionalPutRefused,
    ObjectExists,
    StoreError,
    StoreFull,
    StoreUnavailable,
)
from workers.settings import RepositorySettings


def files_below(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_half_written_and_foreign_files_are_not_listed(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path)
    store.put_if_absent("packs/one", b"1")
    (tmp_path / "packs" / ".hidden").write_bytes(b"not ours")
    (tmp_path / ".snapshot").mkdir()
    (tmp_path / "lost+found").mkdir(0)
    assert [info.key for info in store.list("")] == ["packs/one"]


def test_a_percent_in_the_url_is_decoded(tmp_path: Path) -> None:
    (tmp_path / "my nas").mkdir()
    DirectoryStore.open(RepositorySettings(url=f"file://{tmp_path}/my%20nas")).put_if_absent("a", b"1")
    assert files_below(tmp_path) == ["my nas/a"]


def test_what_was_put_or_deleted_survives_a_power_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """New folders too, and a name in a folder that was there."""
    store = DirectoryStore(tmp_path)
    store.put_if_absent("packs/disk/old", b"1")
    cut = PowerCut(monkeypatch, tmp_path)
    for key in ("config", "packs/disk/new", "segments/disk/run/00000000"):
        store.put_if_absent(key, b"2")
    assert cut.would_take() == []
    store.delete("packs/disk/old")
    store.delete("config")
    assert cut.would_bring_back() == []
    assert files_below(tmp_path) == ["packs/disk/new", "segments/disk/run/00000000"]


def test_a_full_disk_leaves_nothing(tmp_path: Path) -> None:
    """The limit of a file's size stands for the full disk: both end `write` half-way."""
    program = """if True:
        import resource, signal, sys
        from pathlib import Path
        from workers.repository.directory_store import DirectoryStore
        from workers.repository.store import StoreFull
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        try:
            DirectoryStore(Path(sys.argv[1])).put_if_absent("packs/big", bytes(300_000))
        except StoreFull as error:
            print(error)
    """
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert done.stdout == f"cannot write packs/big to {tmp_path}: file too large; nothing is left of it\n"
    assert files_below(tmp_path) == []


@pytest.mark.parametrize(
    ("number", "expected", "says"),
    [
        (errno.ENOSPC, StoreFull, "no space left on device; nothing is left of it"),
        (errno.EDQUOT, StoreFull, "quota"),
        (errno.EIO, StoreUnavailable, "is it still mounted"),
        (errno.ESTALE, StoreUnavailable, "is it still mounted"),
        (errno.EROFS, AccessDenied, "read-only file system"),
        (errno.EINVAL, StoreError, "invalid argument"),
    ],
)
def test_errors_of_the_disk_are_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, expected: type, says: str
) -> None:
    def fails(descriptor: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(directory_store.os, "fsync", fails)
    with pytest.raises(expected, match=says) as caught:
        DirectoryStore(tmp_path).put_if_absent("one", b"1")
    assert "\n" not in str(caught.value)
    assert files_below(tmp_path) == []


def test_a_folder_that_cannot_be_flushed_is_fine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.fsync

    def only_files(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        real(descriptor)

    monkeypatch.setattr(directory_store.os, "fsync", only_files)
    DirectoryStore(tmp_path).put_if_absent("packs/one", b"1")
    assert files_below(tmp_path) == ["packs/one"]


def test_a_file_system_without_hard_links_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(source: Path, target: Path) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(directory_store.os, "link", fails)
    with pytest.raises(ConditionalPutRefused, match=r"no hard links.*use another file system"):
        DirectoryStore(tmp_path).put_if_absent("one", b"1")
    assert files_below(tmp_path) == []


def test_a_link_made_by_a_lost_request_is_our_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """NFS repeats a request whose answer was lost, and then says that the name is taken."""
    real = os.link

    def twice(source: Path, target: Path) -> None:
        real(source, target)
        real(source, target)

    monkeypatch.setattr(directory_store.os, "link", twice)
    store = DirectoryStore(tmp_path)
    store.put_if_absent("one", b"1")
    assert files_below(tmp_path) == ["one"]
    with pytest.raises(ObjectExists):
        store.put_if_absent("one", b"1")


def test_a_root_that_went_away_is_not_made_again(tmp_path: Path) -> None:
    root = tmp_path / "nas"
    root.mkdir()
    store = DirectoryStore(root)
    root.rmdir()
    for ask in (
        lambda: store.put_if_absent("packs/one", b"1"),
        lambda: store.get("one"),
        lambda: store.delete("one"),
        lambda: list(store.list("packs/")),
    ):
        with pytest.raises(StoreUnavailable, match="is it still mounted"):
            ask()
    assert not root.exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may do everything")
def test_a_forbidden_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "packs").mkdir(0o500)
    with pytest.raises(AccessDenied, match="cannot put packs/one"):
        DirectoryStore(tmp_path).put_if_absent("packs/one", b"1")


def test_a_put_copies_nothing(tmp_path: Path) -> None:
    """33 MiB more than the buffer itself would show in the peak."""
    program = """if True:
        import resource, sys
        from pathlib import Path
        from workers.repository.directory_store import DirectoryStore
        data = bytearray(33 << 20)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        DirectoryStore(Path(sys.argv[1])).put_if_absent("big", memoryview(data))
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    """
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert int(done.stdout) < 2 << 10, "KiB"
