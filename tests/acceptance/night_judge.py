"""What must hold after any night, whatever happened in it: judged by the pool and by what comes back.

result   succeeded; a row for each disk, incremental unless the story says why not
bytes    every disk of every point of the night restored, and compared with what the snapshot held
pool     one metadata snapshot a disk and nothing else of ours, nothing plugged, no connect rejected
store    the night's result, and nothing of the run's work
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from tests.acceptance.conftest import PASSPHRASE, Fleet
from tests.acceptance.nightly_pool import BLOCK, NEVER_BACKED_UP, SKIPPED, UNTRACKED, NightlyPool
from workers.repository import (
    DiskPoint,
    Point,
    PrivateKeys,
    Repository,
    Store,
    load_private_keys,
    open_store,
    restore_disk,
)
from workers.settings import load_settings

_NEVER = "(?!)"


@dataclass
class Judge:
    fleet: Fleet
    pool: NightlyPool
    digests: dict[tuple[str, str], str] = field(default_factory=dict)
    """SHA-256 by restore point and VDI, of what was restored in the night itself."""
    nights: list[dict[str, str]] = field(default_factory=list)
    """Of each night the restore point of each VM, by the VM's name."""

    def after_night(
        self,
        result: Mapping[str, Any],
        due: Mapping[str, set[int]],
        full: Mapping[str, str],
    ) -> None:
        """`due`: the blocks written by disk, up to its snapshot. `full`: the disks that are read in full, and
        a pattern that the reason has to match."""
        self._judge_result(result, due, full)
        self._judge_bytes(result)
        self._judge_pool()
        self._judge_store(result["run"])

    def _judge_result(
        self, result: Mapping[str, Any], due: Mapping[str, set[int]], full: Mapping[str, str]
    ) -> None:
        assert result["status"] == "succeeded", self.fleet.report(result)
        full = {**full, **dict.fromkeys(UNTRACKED, "raw")}
        rows = {row["vdi"]: row for row in result["disks"]}
        unexplained = []
        for name, disk in self.pool.disks().items():
            row = rows.pop(disk["vdi"])
            assert (row["error"], bool(row["point"])) == (None, True), row
            if row["mode"] == "incremental":
                assert name not in full, row
                assert row["changed_bytes"] == _bytes(due.get(name, set()), disk["size"]), (name, row)
            elif not re.search(full.get(name, _NEVER), row["reason"]):
                unexplained.append((name, row["reason"]))
        assert unexplained == [], f"read in full without need, or without the right word: {unexplained}"
        known = self.pool.all_disks()
        for name, why in SKIPPED.items():
            row = rows.pop(known[name]["vdi"])
            assert (row["mode"], row["point"], row["error"]) == (None, None, None), row
            assert why in row["reason"], row
        assert rows == {}, "disks that nobody asked for"
        kept = self.fleet.json("status", result["run"])["result"]["disks"]
        drives = sorted((row["vm"], row["reason"]) for row in kept if row["vdi"] is None)
        assert [vm for vm, _ in drives] == ["router", "web1", "web2"], drives
        assert all(re.search("no disk|CD drive", why) for _, why in drives), drives

    def _judge_bytes(self, result: Mapping[str, Any]) -> None:
        live = {disk["vdi"]: name for name, disk in self.pool.disks().items()}
        points = {}
        with self._private() as (store, keys):
            for point in Repository.open(store, keys).points():
                if point.run != result["run"]:
                    continue
                points[point.vm] = point.id
                assert point.metadata is not None, point.vm
                for disk in point.disks:
                    restored = self._restored(store, keys, point, disk)
                    held = self.pool.simulator.content(disk.snapshot)
                    where = f"disk {disk.name} of {point.vm}, blocks that differ"
                    assert (len(restored), _differing(restored, held)) == (len(held), []), where
                    if live[disk.vdi] not in self.pool.written:
                        assert held == self.pool.simulator.content(disk.vdi), "the snapshot is this night's"
                    self.digests[point.id, disk.vdi] = hashlib.sha256(restored).hexdigest()
        assert points.keys() >= {disk["vm"] for disk in self.pool.disks().values()}
        self.nights.append(points)

    def _judge_pool(self) -> None:
        simulator = self.pool.simulator

        def ours() -> list[tuple[str, str | None]]:
            left = simulator.leftovers()
            assert left["vm_snapshots"] == []
            assert {each["type"] for each in left["vdi_snapshots"]} == {"cbt_metadata"}
            return sorted((each["name"], each["snapshot_of"] or "") for each in left["vdi_snapshots"])

        disks = self.pool.disks()
        bases = sorted((name, disks[name]["vdi"]) for name in disks.keys() - UNTRACKED)
        # A host unplugs a disk a moment after its connection has ended; what nobody waits for goes then too.
        self.fleet.wait_until(lambda: simulator.leftovers()["plugged_vbds"] == [] and ours() == bases)
        assert sum(simulator.get("/log")["rejects"].values()) == 0

    def _judge_store(self, run: str) -> None:
        folder = self.fleet.folder / "store"
        left = sorted(path.name for path in (folder / "runs" / run).rglob("*") if path.is_file())
        assert left == ["result"]
        assert [path for path in (folder / "known").rglob("*") if path.is_file()] == []

    def kept_points_are_whole(self, expected: set[str]) -> None:
        """Exactly these points are there, and each is restored once more to what it was in its night."""
        with self._private() as (store, keys):
            points = list(Repository.open(store, keys).points())
            assert {point.id for point in points} == expected
            for point in points:
                for disk in point.disks:
                    restored = self._restored(store, keys, point, disk)
                    assert hashlib.sha256(restored).hexdigest() == self.digests[point.id, disk.vdi]

    def _restored(self, store: Store, keys: PrivateKeys, point: Point, disk: DiskPoint) -> bytes:
        assert disk.name not in NEVER_BACKED_UP
        target = self.fleet.folder / f"{point.id}-{disk.vdi}.raw"
        restore_disk(store, keys, disk, target, threads=2)
        data = target.read_bytes()
        target.unlink()
        return data

    @contextmanager
    def _private(self) -> Iterator[tuple[Store, PrivateKeys]]:
        settings = load_settings(self.fleet.config, self.fleet.environment)
        store = open_store(settings.repository)
        try:
            yield store, load_private_keys(store, settings.repository, lambda: PASSPHRASE)
        finally:
            store.close()


def _bytes(blocks: set[int], size: int) -> int:
    return sum(min(BLOCK, size - block * BLOCK) for block in blocks)


def _differing(one: bytes, other: bytes) -> list[int]:
    starts = range(0, max(len(one), len(other)), BLOCK)
    return [start // BLOCK for start in starts if one[start : start + BLOCK] != other[start : start + BLOCK]]
