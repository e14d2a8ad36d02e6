"""How far runs are: one VM's disks, or a run as a whole."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, cast

from workers.fleet.errors import UnknownToLedger
from workers.fleet.keys import KEYS
from workers.fleet.scripts import Scripts, text
from workers.fleet.values import (
    DiskFacts,
    DiskProgress,
    RunProgress,
    RunState,
    VmProgress,
    read_disk_facts,
    unpacked,
)
from workers.records import RecordUnreadable

AT_ONCE = 500
"""VMs or disks read in one round trip: no reader keeps Redis from the streams for long."""


class Progress:
    def __init__(self, scripts: Scripts) -> None:
        self._scripts = scripts

    def vm_disks(self, run: str, vm: str) -> list[DiskProgress]:
        """The VM's disks as they were given to `start_vm`; none before. It costs the same in any run."""
        rows = self._scripts.call("vm_disks", run, vm)
        return [
            _disk(run, text(disk), dict(zip(fields[::2], fields[1::2], strict=True)), facts, error)
            for disk, fields, facts, error in rows
        ]

    def committed_packs(self, run: str, disk: str) -> bytes:
        """16 bytes a batch: the hash in the name of the pack that was committed for it; zeros, or no more
        bytes, where none is known, as Redis forgot it. Until the disk's VM is finished."""
        return self._scripts.command("GET", f"{KEYS['packs']}{run}/{disk}") or b""

    def disk_facts(self, run: str, disks: Sequence[str]) -> dict[str, DiskFacts]:
        """The facts of these disks of the run, those that are known and can be read."""
        rows = self._scripts.command("HMGET", KEYS["facts"] + run, *disks) if disks else []
        found = {}
        for disk, row in zip(disks, rows, strict=True):
            with suppress(RecordUnreadable):
                found[disk] = read_disk_facts(row, run, disk)
        return found

    def progress(self, run: str) -> RunProgress:
        """Everything about the run, read in many round trips (one disk may be newer than another). It costs
        some 0.1 ms a disk: for who shows or ends a run as a whole."""
        fields = ("state", "cancelled", "created", "ended")
        known, vms = self._scripts.commands(
            [("HMGET", KEYS["run"] + run, *fields), ("LRANGE", KEYS["vms"] + run, "0", "-1")]
        )
        state, cancelled, created, ended = known
        if state is None:
            raise UnknownToLedger(f"run {run} is not in the ledger")
        rows: list[tuple[str, dict[bytes, bytes]]] = []
        for some in _pieces([text(vm) for vm in vms]):
            answers = self._scripts.commands([("HGETALL", f"{KEYS['vm']}{run}/{vm}") for vm in some])
            rows += [(vm, row) for vm, row in zip(some, answers, strict=True) if row]
        disks = [disk for _, row in rows for disk in json.loads(row.get(b"disks", b"[]"))]
        return RunProgress(
            run=run,
            state=cast(RunState, text(state)),
            cancelled=cancelled is not None,
            created=int(created) / 1000,
            ended=_seconds(ended),
            vms=[_vm(vm, row) for vm, row in rows],
            disks=[disk for some in _pieces(disks) for disk in self._disks(run, some)],
        )

    def _disks(self, run: str, disks: Sequence[str]) -> list[DiskProgress]:
        if not disks:
            return []
        facts, errors, *rows = self._scripts.commands(
            [("HMGET", KEYS["facts"] + run, *disks), ("HMGET", KEYS["errors"] + run, *disks)]
            + [("HGETALL", f"{KEYS['disk']}{run}/{disk}") for disk in disks]
        )
        found = zip(disks, rows, facts, errors, strict=True)
        return [_disk(run, disk, row, said, error) for disk, row, said, error in found if row]


def _pieces(ids: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(ids), AT_ONCE):
        yield ids[start : start + AT_ONCE]


def _seconds(milliseconds: bytes | None) -> float | None:
    return None if milliseconds is None else int(milliseconds) / 1000


def _vm(vm: str, row: Mapping[bytes, bytes]) -> VmProgress:
    return VmProgress(vm, cast(Any, text(row[b"state"])), unpacked(row[b"facts"]))


def _disk(
    run: str, disk: str, row: Mapping[bytes, bytes], facts: bytes | None, error: bytes | None
) -> DiskProgress:
    def number(field: bytes) -> int:
        return int(row.get(field, 0))

    read, unreadable = None, None
    try:
        read = read_disk_facts(facts, run, disk)
    except RecordUnreadable as problem:  # the disk's, not that of all who look at the run
        unreadable = str(problem)
    return DiskProgress(
        disk=disk,
        vm=text(row[b"vm"]),
        state=cast(Any, text(row[b"state"])),
        batches=int(row[b"batches"]),
        done=number(b"done"),
        read_bytes=number(b"read_bytes"),
        stored_bytes=number(b"stored_bytes"),
        started=int(row[b"started"]) / 1000,
        ended=_seconds(row.get(b"ended")),
        streams=number(b"streams"),
        attempts=number(b"attempts"),
        error=text(error) or unreadable,
        facts=read,
    )
