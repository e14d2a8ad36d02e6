"""The ledger's real Lua on a real Redis, with a clock that a test moves by hand.

The scripts read the time through `prelude/now.lua` alone. Here that one file is replaced by one that reads a
key; everything else is what production runs.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import redis

from workers.fleet import DiskFacts, DiskProgress, DiskWork, Grant, Ledger, scripts

_NOW = """
local function now()
  return tonumber(redis.call('GET', 'test:now'))
end
"""
START = 1_800_000_000.0

FULL_DISK = DiskFacts(
    vm_name="web",
    name="root",
    userdevice="0",
    sr="sr",
    mode="full",
    reason="the first backup of this disk in this repository",
    changed_bytes=1 << 25,
)
"""What is known of a disk, where a test needs some facts and not particular ones."""


def lua_with_injected_time(folder: Path) -> Path:
    copy = folder / "lua"
    shutil.copytree(scripts.FOLDER, copy)
    (copy / "prelude" / "now.lua").write_text(_NOW)
    return copy


class Clock:
    def __init__(self, client: redis.Redis) -> None:
        self._client = client
        self.now = START
        self.advance(0)

    def advance(self, seconds: float) -> None:
        self.now += seconds
        self._client.set("test:now", round(self.now * 1000))

    def flush(self) -> None:
        """Redis loses everything; time goes on."""
        self._client.flushall()
        self.advance(0)


def disk_work(
    disk: str, batches: int, *, vm: str = "vm", hosts: tuple[str, ...] = ("h1",), weight: float = 1
) -> DiskWork:
    return DiskWork(
        run="run",
        vm=vm,
        disk=disk,
        pool="lab",
        snapshot=f"snapshot-of-{disk}",
        virtual_size=batches << 25,
        batches=batches,
        hosts=hosts,
        weight=weight,
        facts=FULL_DISK,
        plan=b"\x00packed\xff",
    )


class Fleet:
    """A ledger, its clock, and the few calls that nearly every test begins with."""

    def __init__(self, ledger: Ledger, clock: Clock) -> None:
        self.ledger = ledger
        self.clock = clock

    def start(self, *disks: DiskWork, processes: int = 8, caps: dict[str, int] | None = None) -> None:
        """Founds the ledger and starts run "run" with VM "vm" on these disks."""
        self.ledger.found()
        for host, cap in (caps or {"h1": 16}).items():
            self.ledger.set_host("lab", host, cap)
        self.ledger.node_alive("node", processes)
        self.ledger.create_run("run", b"")
        self.ledger.add_vms("run", {"vm": b""})
        self.ledger.start_vm("run", "vm", disks)

    def hold(self, *, owner: str = "node/1", limit: int = 1) -> Grant:
        """Admits one stream and opens its connection."""
        (grant,) = self.ledger.admit(limit)
        assert self.ledger.claim(grant, owner) is not None
        assert self.ledger.opened(grant)
        return grant

    def states(self, host: str = "h1") -> list[str]:
        return [slot.state for slot in self.ledger.slots("lab", host)]

    def disk(self, disk: str) -> DiskProgress:
        return next(row for row in self.ledger.progress("run").disks if row.disk == disk)


@pytest.fixture
def fleet(redis_client: redis.Redis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fleet:
    monkeypatch.setattr(scripts, "FOLDER", lua_with_injected_time(tmp_path))
    return Fleet(Ledger(redis_client), Clock(redis_client))
