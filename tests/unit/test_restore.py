"""Restoring: every byte comes back, and a file is whole or not there."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.repository_machine import DISK, ENCRYPTED, PLAIN, Machine, MemoryStore
from workers.extents import BLOCK_SIZE, Plan
from workers.repository import (
    DamagedObject,
    DiskPoint,
    FileNotWritten,
    ObjectMissing,
    PrivateKeys,
    StoreUnavailable,
    TargetExists,
    durable_files,
    restore_disk,
)
from workers.repository.directory_store import DirectoryStore
from workers.repository.store import ObjectTruncated

SIZE = 700 * BLOCK_SIZE + 4096 + 512
"""Two batches, and a last block that is short."""


@pytest.fixture(params=[ENCRYPTED, PLAIN], ids=["encrypted", "unencrypted"])
def keys(request: pytest.FixtureRequest) -> PrivateKeys:
    found: PrivateKeys = request.param
    return found


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


def full_backup(
    store: MemoryStore, keys: PrivateKeys, blocks: list[int] | None = None
) -> tuple[Machine, DiskPoint]:
    machine = Machine(store, keys, SIZE)
    machine.write(list(range(0, 701, 3)) if blocks is None else blocks)
    return machine, machine.backup("run1", Plan.full(SIZE))


def left_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_every_point_of_a_history_comes_back(store: MemoryStore, keys: PrivateKeys, tmp_path: Path) -> None:
    """A full, an increment that overwrites and zeroes, and one after the disk has grown."""
    machine, first = full_backup(store, keys)
    history = [(first, bytes(machine.content))]
    machine.write([0, 1, 5, 6, 699, 700])
    machine.write([3, 9], zeros=True)
    history.append(
        (machine.backup("run2", machine.plan([0, 1, 3, 5, 6, 9, 699, 700])), bytes(machine.content))
    )
    machine.grow(SIZE + 300 * BLOCK_SIZE + 512)
    machine.write([800, 1000])
    changed = [*range(701, 1001), 800]
    history.append((machine.backup("run3", machine.plan(changed)), bytes(machine.content)))
    for number, (disk, content) in enumerate(history):
        seen: list[int] = []
        done = restore_disk(store, keys, disk, tmp_path / f"{number}.raw", threads=3, progress=seen.append)
        assert (tmp_path / f"{number}.raw").read_bytes() == content
        assert done.bytes == sum(seen) == len(content)
    assert left_in(tmp_path) == ["0.raw", "1.raw", "2.raw"]


def test_a_merged_history_comes_back(store: MemoryStore, tmp_path: Path) -> None:
    machine, disk = full_backup(store, ENCRYPTED)
    for number in range(2, 22):
        blocks = [number, number * 30]
        machine.write(blocks)
        disk = machine.backup(f"run{number}", machine.plan(blocks))
    assert any("merged" in segment.key for segment in disk.segments)
    restore_disk(store, ENCRYPTED, disk, tmp_path / "disk")
    assert (tmp_path / "disk").read_bytes() == bytes(machine.content)


def test_holes_take_no_space_and_the_file_is_private(store: MemoryStore, tmp_path: Path) -> None:
    _, disk = full_backup(store, ENCRYPTED, blocks=[0, 350])
    restore_disk(store, ENCRYPTED, disk, tmp_path / "disk")
    found = (tmp_path / "disk").stat()
    assert found.st_size == SIZE
    assert found.st_blocks * 512 <= 4 * BLOCK_SIZE
    assert found.st_mode & 0o777 == 0o600


@pytest.mark.parametrize("size", [0, 1, BLOCK_SIZE])
def test_tiny_and_empty_disks(store: MemoryStore, tmp_path: Path, size: int) -> None:
    machine = Machine(store, ENCRYPTED, size)
    machine.content[:] = b"x" * size
    disk = machine.backup("run1", Plan.full(size))
    restore_disk(store, ENCRYPTED, disk, tmp_path / "disk")
    assert (tmp_path / "disk").read_bytes() == b"x" * size


def test_neighbours_are_fetched_together(store: MemoryStore, tmp_path: Path) -> None:
    _, disk = full_backup(store, ENCRYPTED, blocks=list(range(600)))
    store.requests.clear()
    restore_disk(store, ENCRYPTED, disk, tmp_path / "disk")
    fetched = [key for verb, key in store.requests if key.startswith("packs/")]
    assert len(set(fetched)) == 2
    assert len(fetched) == 4, "16 MiB in spans of 8 MiB, and a batch of 88 blocks"


def test_writes_that_take_a_part_are_gone_on_with(
    store: MemoryStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.pwrite
    monkeypatch.setattr(durable_files.os, "pwrite", lambda file, data, at: real(file, data[:20_000], at))
    machine, disk = full_backup(store, ENCRYPTED, blocks=[0, 5])
    restore_disk(store, ENCRYPTED, disk, tmp_path / "disk")
    assert (tmp_path / "disk").read_bytes() == bytes(machine.content)


# Targets


def test_an_existing_file_is_refused_without_force(store: MemoryStore, tmp_path: Path) -> None:
    machine, disk = full_backup(store, ENCRYPTED)
    target = tmp_path / "disk"
    target.write_bytes(b"precious")
    store.requests.clear()
    with pytest.raises(TargetExists, match=r"exists already.*--force"):
        restore_disk(store, ENCRYPTED, disk, target)
    assert target.read_bytes() == b"precious"
    assert store.requests == []
    restore_disk(store, ENCRYPTED, disk, target, force=True)
    assert target.read_bytes() == bytes(machine.content)
    assert left_in(tmp_path) == ["disk"]


@pytest.mark.parametrize("kind", ["folder", "link", "dangling", "fifo"])
def test_what_is_no_file_is_never_replaced(store: MemoryStore, tmp_path: Path, kind: str) -> None:
    _, disk = full_backup(store, ENCRYPTED)
    target = tmp_path / "disk"
    if kind == "folder":
        target.mkdir()
    elif kind == "fifo":
        os.mkfifo(target)
    else:
        if kind == "link":
            (tmp_path / "other").touch()
        target.symlink_to("other")
    for force in (False, True):
        with pytest.raises(TargetExists, match=r"exists already|not a regular file"):
            restore_disk(store, ENCRYPTED, disk, target, force=force)


def test_a_file_that_came_meanwhile_is_not_replaced(store: MemoryStore, tmp_path: Path) -> None:
    _, disk = full_backup(store, ENCRYPTED)
    target = tmp_path / "disk"
    with pytest.raises(TargetExists, match="came into being meanwhile"):
        restore_disk(
            store, ENCRYPTED, disk, target, progress=lambda count: target.write_bytes(b"new") and None
        )
    assert target.read_bytes() == b"new"
    assert left_in(tmp_path) == ["disk"]


def test_file_systems_without_hard_links(
    store: MemoryStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_links(source: Path, target: Path) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(durable_files.os, "link", no_links)
    machine, disk = full_backup(store, ENCRYPTED)
    restore_disk(store, ENCRYPTED, disk, tmp_path / "one")
    assert (tmp_path / "one").read_bytes() == bytes(machine.content)
    target = tmp_path / "two"
    with pytest.raises(TargetExists, match="came into being meanwhile"):
        restore_disk(
            store, ENCRYPTED, disk, target, progress=lambda count: target.write_bytes(b"new") and None
        )
    assert target.read_bytes() == b"new"
    assert left_in(tmp_path) == ["one", "two"]


def test_a_folder_that_is_not_there_is_named(store: MemoryStore, tmp_path: Path) -> None:
    _, disk = full_backup(store, ENCRYPTED)
    with pytest.raises(FileNotWritten, match=rf"cannot write {tmp_path}/no/disk: no such file or directory"):
        restore_disk(store, ENCRYPTED, disk, tmp_path / "no" / "disk")


# Trouble: one line, and nothing left


def flip(store: MemoryStore, key: str, position: int) -> None:
    data = bytearray(store.objects[key])
    data[position] ^= 1
    store.objects[key] = bytes(data)


def cut(store: MemoryStore, key: str) -> None:
    store.objects[key] = store.objects[key][:100_000]


def swap(store: MemoryStore, first: str, second: str) -> None:
    store.objects[first], store.objects[second] = store.objects[second], store.objects[first]


DAMAGES: dict[str, tuple[Callable[[MemoryStore, list[str], str], object], type[Exception], str]] = {
    "a byte of a frame": (
        lambda store, packs, segment: flip(store, packs[0], 16 + 40_000),
        DamagedObject,
        r"packs/.*, block 3 is damaged",
    ),
    "a pack cut": (
        lambda store, packs, segment: cut(store, packs[0]),
        ObjectTruncated,
        "packs/.* is truncated",
    ),
    "a pack lost": (
        lambda store, packs, segment: store.delete(packs[1]),
        ObjectMissing,
        "packs/.*/00000001-.* is not in the store",
    ),
    "two packs swapped": (
        lambda store, packs, segment: swap(store, *packs),
        (DamagedObject, ObjectTruncated),  # type: ignore[dict-item]
        "packs/.* is (damaged|truncated)",
    ),
    "a byte of a segment": (
        lambda store, packs, segment: flip(store, segment, -30),
        DamagedObject,
        r"segments/.* is damaged",
    ),
    "a segment lost": (
        lambda store, packs, segment: store.delete(segment),
        ObjectMissing,
        "segments/.* is not in the store",
    ),
}


@pytest.mark.parametrize("what", DAMAGES)
def test_a_damaged_point_leaves_no_file(
    store: MemoryStore, keys: PrivateKeys, tmp_path: Path, what: str
) -> None:
    _, disk = full_backup(store, keys)
    packs = sorted(key for key in store.objects if key.startswith("packs/"))
    spoil, expected, says = DAMAGES[what]
    spoil(store, packs, disk.segments[0].key)
    with pytest.raises(expected, match=says) as caught:
        restore_disk(store, keys, disk, tmp_path / "disk", threads=2)
    assert "\n" not in str(caught.value)
    assert left_in(tmp_path) == []


def test_the_wrong_key_restores_nothing(store: MemoryStore, tmp_path: Path) -> None:
    _, disk = full_backup(store, ENCRYPTED)
    stranger = PrivateKeys.from_masters(ENCRYPTED.repository, [bytes(32)])
    with pytest.raises(DamagedObject):
        restore_disk(store, stranger, disk, tmp_path / "disk")
    assert left_in(tmp_path) == []


def test_a_store_that_goes_away_leaves_no_file(store: MemoryStore, tmp_path: Path) -> None:
    _, disk = full_backup(store, ENCRYPTED)

    class Failing(MemoryStore):
        def get_range(self, key: str, start: int, length: int) -> bytes:
            if key.startswith("packs/"):
                raise StoreUnavailable("cannot reach it")
            return super().get_range(key, start, length)

    failing = Failing()
    failing.objects = store.objects
    with pytest.raises(StoreUnavailable):
        restore_disk(failing, ENCRYPTED, disk, tmp_path / "disk")
    assert left_in(tmp_path) == []


@pytest.fixture
def on_disk(store: MemoryStore, tmp_path: Path) -> tuple[Path, DiskPoint]:
    """The same repository in a folder, for other processes."""
    _, disk = full_backup(store, PLAIN)
    root = tmp_path / "repository"
    root.mkdir()
    directory = DirectoryStore(root)
    for key, data in store.objects.items():
        directory.put_if_absent(key, data)
    return root, disk


PROGRAM = """
    import resource, signal, sys
    from pathlib import Path
    from pydantic import TypeAdapter
    from tests.repository_machine import PLAIN
    from workers.errors import CbtfleetError
    from workers.repository import DiskPoint, restore_disk
    from workers.repository.directory_store import DirectoryStore

    disk = TypeAdapter(DiskPoint).validate_json(sys.argv[2])
    store, target = DirectoryStore(Path(sys.argv[1])), Path(sys.argv[3])
    try:
        {before}
        restore_disk(store, PLAIN, disk, target, progress={progress})
    except CbtfleetError as error:
        print(error, flush=True)
"""


def program(
    root: Path, disk: DiskPoint, target: Path, *, before: str = "pass", progress: str = "None"
) -> list[str]:
    from pydantic import TypeAdapter

    code = textwrap.dedent(PROGRAM).format(before=before, progress=progress)
    return [
        sys.executable,
        "-c",
        code,
        str(root),
        TypeAdapter(DiskPoint).dump_json(disk).decode(),
        str(target),
    ]


def test_a_full_disk_is_one_line_and_leaves_no_file(on_disk: tuple[Path, DiskPoint], tmp_path: Path) -> None:
    """The limit of a file's size stands for the full disk: both end a write half-way."""
    folder = tmp_path / "out"
    folder.mkdir()
    limit = (
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        " resource.setrlimit(resource.RLIMIT_FSIZE, (10_000_000, 10_000_000))"
    )
    done = subprocess.run(
        program(*on_disk, folder / "disk", before=limit), capture_output=True, text=True, check=True
    )
    assert done.stdout == f"cannot write {folder}/disk: file too large; nothing is left of it\n"
    assert left_in(folder) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a small file system")
def test_a_really_full_disk(on_disk: tuple[Path, DiskPoint], tmp_path: Path) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    inside = f'mount -t tmpfs -o size=4m none {folder} && "$@" && ls -A {folder}'
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", inside, "sh", *program(*on_disk, folder / "disk")],
        capture_output=True,
        text=True,
    )
    if "unshare" in done.stderr or "mount" in done.stderr:
        pytest.skip("no mounts here")
    says = f"{folder}/disk: no space left on device; nothing is left of it, make room or write it elsewhere\n"
    assert done.stdout == says


def test_ctrl_c_leaves_no_file(on_disk: tuple[Path, DiskPoint], tmp_path: Path) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    ready = "lambda count: (print(count, flush=True), signal.pause())"
    with subprocess.Popen(
        program(*on_disk, folder / "disk", progress=ready), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert int(process.stdout.readline()) > 0
        assert [name for name in left_in(folder) if name.endswith(".partial")]
        process.send_signal(signal.SIGINT)
        process.wait(20)
    assert left_in(folder) == []


def test_no_thread_stays_behind(store: MemoryStore, tmp_path: Path) -> None:
    _, disk = full_backup(store, ENCRYPTED)
    store.delete(next(key for key in store.objects if key.startswith("packs/")))
    before = threading.active_count()
    with pytest.raises(ObjectMissing):
        restore_disk(store, ENCRYPTED, disk, tmp_path / "disk")
    assert threading.active_count() == before
    assert disk.vdi == DISK
