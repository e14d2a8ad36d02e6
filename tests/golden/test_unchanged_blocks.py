"""The reader made from docs/format.md alone, and a repository with a re-baseline in it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.golden.format_reader import Reader
from tests.repository_machine import DISK, SNAPSHOT, Machine
from workers.extents import BLOCK_SIZE, Plan
from workers.repository import (
    KnownHashes,
    Point,
    create_repository,
    load_private_keys,
    open_store,
)
from workers.settings import RepositorySettings

KINDS = ("encrypted", "unencrypted")


class Built(Machine):
    """A full, changes, and a re-baseline that finds blocks 0 and 600 unchanged; then one more increment."""

    def build(self) -> list[tuple[Point, bytes]]:
        self.write([0, 1, 2, 600, 601])
        self.backup("run1", Plan.full(self.size))
        self.write([1])
        earlier = self.backup("run2", self.plan([1]))
        self.write([601])
        self.write([2], zeros=True)
        plan = Plan.full(self.size)
        self.repository.keep_known_hashes("run3", plan, earlier)
        worker = self.keys.metadata.worker
        known = KnownHashes(self.store, worker, run="run3", disk=DISK, snapshot=earlier.snapshot)
        for batch in plan.batch_numbers():
            pack = self.pack("run3", plan, batch, known=known.of(batch))
            self.store.put_if_absent(pack.key, pack.data)
        segments = self.repository.write_segments("run3", DISK, SNAPSHOT, plan, None, earlier)
        made = [(self.point("run3", segments), bytes(self.content))]
        self.parent = made[0][0].disks[0]
        self.write([600])
        made.append((self.point("run4", self.backup("run4", self.plan([600])).segments), bytes(self.content)))
        for point, _ in made:
            self.repository.commit_point(point)
        return made


@pytest.mark.parametrize("kind", KINDS)
def test_a_reader_made_from_the_page_alone_reads_a_re_baseline(kind: str, tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    files = {f"{name}_key_file": tmp_path / f"{name}.json" for name in ("public", "metadata", "private")}
    settings = RepositorySettings.model_validate(
        {"url": f"file://{tmp_path}/store"} | (files if kind == "encrypted" else {})
    )
    store = open_store(settings)
    create_repository(store, settings, encrypted=kind == "encrypted", passphrase="golden", scrypt_log_n=10)
    keys = load_private_keys(store, settings, lambda: "golden")
    machine = Built(store, keys, 700 * BLOCK_SIZE - 5)  # type: ignore[arg-type]
    made = machine.build()
    private = tmp_path / "private.json" if kind == "encrypted" else None
    reader = Reader(tmp_path / "store", private, "golden")
    for point, content in made:
        assert reader.restore(point.id, DISK) == content
    kinds: dict[int, int] = {}
    for path in (tmp_path / "store" / "packs" / DISK / "run3").iterdir():
        entries = reader.pack_index(str(path.relative_to(tmp_path / "store")))
        kinds |= {block: kind for _, _, block, _, _, kind, _ in entries}
    assert {block for block, kind in kinds.items() if kind == 3} == {0, 1, 600}
    assert {block for block, kind in kinds.items() if kind < 2} == {601}
    assert len(kinds) == 700
    segment = reader.segment(f"segments/{DISK}/run3/00000000")
    assert [segment[block][1][1] for block in sorted(segment)] == ["run1", "run2", "run1", "run3"]
    hashes = reader.known_hashes(f"known/run3/{DISK}/00000000", 1, made[0][0].disks[0].snapshot)
    assert hashes[600 - 512] == segment[600][-2]
    assert [number for number, known in enumerate(hashes) if known != bytes(16)] == [600 - 512, 601 - 512]
