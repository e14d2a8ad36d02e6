"""Pools, VMs and disks to measure with, as large and as wordy as real ones."""

from __future__ import annotations

import random
import uuid
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from scheduler.runs.values import VmFacts
from workers.extents import BATCH_BLOCKS, Plan, block_count
from workers.fleet import DiskFacts, DiskWork, Grant, Ledger

GIB = 1 << 30


@dataclass(frozen=True)
class Estate:
    """Every fifth disk lies on a local SR, which one host sees; all hosts of a pool see the others."""

    vms: int = 1000
    disks_per_vm: int = 3
    pools: int = 1
    hosts_per_pool: int = 16
    batches: int = 33
    virtual_size: int = 100 * GIB
    change_run: int = 16
    """Mean length of a run of changed blocks: 16 are 1 MiB."""
    plans: int = 40
    """Different plans; making 3,000 would take longer than what is measured."""

    def hosts(self) -> dict[str, list[str]]:
        """Pool -> its hosts' uuids."""
        rng = random.Random(1)
        return {
            f"pool-{number}": [_uuid(rng) for _ in range(self.hosts_per_pool)] for number in range(self.pools)
        }

    def works(self, run: str) -> Iterator[tuple[str, VmFacts, list[DiskWork]]]:
        """Each VM: its uuid, its facts as `plan-run` makes them, its disks as `plan-vm` does."""
        rng = random.Random(2)
        plans = [_plan(self, seed) for seed in range(self.plans)]
        pools = list(self.hosts().items())
        for number in range(self.vms):
            vm, name = _uuid(rng), f"app-server-{number:04}"
            pool, hosts = pools[number % len(pools)]
            shared_sr = f"{pool}-shared-sr"
            works = []
            for position in range(self.disks_per_vm):
                local = rng.random() < 0.2
                snapshot = _uuid(rng)
                facts = DiskFacts(
                    vm_name=name,
                    name=f"{name} disk {position}",
                    userdevice=str(position),
                    sr=_uuid(rng) if local else shared_sr,
                    mode="incremental",
                    reason=None,
                    changed_bytes=self.batches * BATCH_BLOCKS * 65536,
                    incremental_to=_uuid(rng),
                )
                works.append(
                    DiskWork(
                        run=run,
                        vm=vm,
                        disk=_uuid(rng),
                        pool=pool,
                        snapshot=snapshot,
                        virtual_size=self.virtual_size,
                        batches=self.batches,
                        hosts=(rng.choice(hosts),) if local else tuple(hosts),
                        facts=facts,
                        plan=rng.choice(plans),
                    )
                )
            yield vm, VmFacts(name, snapshot=_uuid(rng), time="2026-01-01T00:00:00Z"), works


def submit(ledger: Ledger, run: str, estate: Estate) -> None:
    """Registers the hosts and starts every VM."""
    for pool, hosts in estate.hosts().items():
        for host in hosts:
            ledger.set_host(pool, host, 16)
    vms = list(estate.works(run))
    ledger.create_run(run, b"")
    ledger.add_vms(run, {vm: facts.write() for vm, facts, _ in vms})
    for vm, _, works in vms:
        ledger.start_vm(run, vm, works)


def hold(ledger: Ledger, grants: list[Grant], owner: str = "node/1") -> list[Grant]:
    for grant in grants:
        assert ledger.claim(grant, owner) is not None
        assert ledger.opened(grant)
    return grants


def _uuid(rng: random.Random) -> str:
    return str(uuid.UUID(int=rng.getrandbits(128), version=4))


def _plan(estate: Estate, seed: int) -> bytes:
    """About `batches` batches of changed blocks, in runs of random length at random places."""
    rng = np.random.default_rng(seed)
    bits = np.zeros(block_count(estate.virtual_size), np.uint8)
    wanted = min(estate.batches * BATCH_BLOCKS, len(bits) // 2)
    while (missing := wanted - int(bits.sum())) > 0:
        for length in rng.geometric(1 / estate.change_run, max(1, missing // estate.change_run)):
            start = int(rng.integers(0, len(bits)))
            bits[start : start + int(length)] = 1
    return Plan.from_bitmap(np.packbits(bits).tobytes(), estate.virtual_size).pack()
