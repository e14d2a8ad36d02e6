"""Runs in the ledger: their VMs and disks, how far they are, and how they end."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal, cast

from workers.fleet.errors import UnknownToLedger
from workers.fleet.keys import KEYS, plain
from workers.fleet.scripts import Scripts, request_id, short, text
from workers.fleet.values import (
    DiskProgress,
    DiskWork,
    RunProgress,
    VmProgress,
    VmState,
    read_disk_facts,
)
from workers.records import RecordUnreadable

RunState = Literal["planning", "running", "ended"]


class Runs:
    """What is kept of a run and of a VM as `facts` is the scheduler's: the ledger does not look into it."""

    def __init__(self, scripts: Scripts) -> None:
        self._scripts = scripts

    def create_run(self, run: str, facts: bytes) -> bool:
        """Creates the run and its `plan-run` step; False when the run exists already."""
        return bool(self._scripts.call("create_run", plain("run", run), facts, request_id()))

    def add_vms(self, run: str, vms: Mapping[str, bytes]) -> None:
        """Adds VMs (uuid -> facts) and a `plan-vm` step for each new one; a run without any VM gets its
        `end-run` step. VMs that are there already keep their facts and state."""
        arguments = [part for vm, facts in vms.items() for part in (plain("VM", vm), facts)]
        self._scripts.call("add_vms", run, *arguments)

    def start_vm(self, run: str, vm: str, disks: Sequence[DiskWork]) -> bool:
        """Hands the VM's disks to the fleet; False when that was done before (then nothing changes).

        A disk without batches is complete at once, and in a cancelled run every disk is cancelled at once.
        When no disk is left to stream, the VM's `finish-vm` step is there afterwards. Raises LedgerError when
        no candidate host of a disk was registered with `set_host`, or a disk is in this run with another VM.
        """
        arguments: list[str | bytes | int | float] = []
        for work in disks:
            if (work.run, work.vm) != (run, vm) or work.weight <= 0 or work.batches < 0:
                raise ValueError(
                    f"disk {work.disk}: not of run {run} and VM {vm}, or a weight that is not positive"
                )
            if work.attempts < 1 or not all(0 <= batch < work.batches for batch in work.done):
                raise ValueError(f"disk {work.disk}: no attempts, or a batch done that it does not have")
            hosts = json.dumps([plain("host", host) for host in work.hosts])
            arguments += [plain("disk", work.disk), work.pool, work.snapshot, work.virtual_size, work.batches]
            arguments += [work.weight, hosts, work.facts.write(), work.plan]
            arguments += [work.attempts, round(work.give_up_after * 1000)]
            arguments += [work.read_bytes, work.stored_bytes, _bits(work.done)]
        return bool(self._scripts.call("start_vm", run, vm, *arguments))

    def fail_disk(self, run: str, disk: str, error: str) -> None:
        """Gives the disk up, unless it has ended. Its streams are told EMPTY."""
        self._scripts.call("fail_disk", run, disk, short(error))

    def finish_vm(self, run: str, vm: str, facts: bytes | None = None) -> None:
        """Ends the VM, also one that was never started; new facts replace the old ones. The run's last VM
        makes its `end-run` step. Raises LedgerError while disks of the VM stream."""
        self._scripts.call("finish_vm", run, vm, "" if facts is None else facts)

    def end_run(self, run: str, result: bytes) -> None:
        """Ends the run; its keys expire after `Timing.keep_ended`. Raises LedgerError while VMs are left."""
        self._scripts.call("end_run", run, result)

    def cancel(self, run: str) -> bool:
        """Cancels every disk that still streams; their streams are told CANCEL. False when the run was
        cancelled before or has ended."""
        return bool(self._scripts.call("cancel", run))

    def is_cancelled(self, run: str) -> bool:
        return self._scripts.command("HGET", KEYS["run"] + run, "cancelled") is not None

    def runs(self) -> list[str]:
        """The runs that the ledger still knows, oldest first."""
        names: list[bytes] = self._scripts.command("ZRANGE", KEYS["runs"], 0, -1)
        states = self._scripts.commands([("HGET", KEYS["run"] + text(name), "state") for name in names])
        return [text(name) for name, state in zip(names, states, strict=True) if state is not None]

    def run_state(self, run: str) -> RunState:
        return cast(RunState, text(self._run_field(run, "state")))

    def run_facts(self, run: str) -> bytes:
        return self._run_field(run, "facts")

    def set_run_facts(self, run: str, facts: bytes) -> None:
        self._scripts.call("set_run_facts", run, facts)

    def run_result(self, run: str) -> bytes | None:
        """What `end_run` was given; None before, or when the run is not known (any more)."""
        result: bytes | None = self._scripts.command("HGET", KEYS["run"] + run, "result")
        return result

    def vm_facts(self, run: str, vm: str) -> bytes:
        return self._vm_field(run, vm, "facts")

    def vm_state(self, run: str, vm: str) -> VmState:
        return cast(VmState, text(self._vm_field(run, vm, "state")))

    def _vm_field(self, run: str, vm: str, field: str) -> bytes:
        value: bytes | None = self._scripts.command("HGET", f"{KEYS['vm']}{run}/{vm}", field)
        if value is None:
            raise UnknownToLedger(f"VM {vm} is not in run {run}")
        return value

    def set_vm_facts(self, run: str, vm: str, facts: bytes) -> None:
        """No effect on a VM that is finished: it keeps what `finish_vm` was given."""
        self._scripts.call("set_vm_facts", run, vm, facts)

    def plan(self, run: str, disk: str) -> bytes:
        """The disk's packed plan. Raises UnknownToLedger once the disk has ended."""
        plan = self._scripts.command("HGET", KEYS["plans"] + run, disk)
        if plan is None:
            raise UnknownToLedger(
                f"disk {disk} of run {run} has no plan: it has ended, or the ledger lost it"
            )
        return bytes(plan)

    def progress(self, run: str) -> RunProgress:
        """Everything about the run, read in two round trips (one disk may be a moment newer than another)."""
        facts, disk_facts, errors, vms, disks = self._scripts.commands(
            [
                ("HGETALL", KEYS["run"] + run),
                ("HGETALL", KEYS["facts"] + run),
                ("HGETALL", KEYS["errors"] + run),
                ("LRANGE", KEYS["vms"] + run, "0", "-1"),
                ("LRANGE", KEYS["disks"] + run, "0", "-1"),
            ]
        )
        if not facts:
            raise UnknownToLedger(f"run {run} is not in the ledger")
        rows = self._scripts.commands(
            [("HGETALL", f"{KEYS['vm']}{run}/{text(vm)}") for vm in vms]
            + [("HGETALL", f"{KEYS['disk']}{run}/{text(disk)}") for disk in disks]
        )
        return RunProgress(
            run=run,
            state=cast(RunState, text(facts[b"state"])),
            cancelled=b"cancelled" in facts,
            created=int(facts[b"created"]) / 1000,
            ended=_seconds(facts.get(b"ended")),
            vms=[_vm(text(vm), row) for vm, row in zip(vms, rows, strict=False) if row],
            disks=[
                _disk(run, text(disk), row, disk_facts.get(disk), errors.get(disk))
                for disk, row in zip(disks, rows[len(vms) :], strict=True)
                if row
            ],
        )

    def _run_field(self, run: str, field: str) -> bytes:
        value: bytes | None = self._scripts.command("HGET", KEYS["run"] + run, field)
        if value is None:
            raise UnknownToLedger(f"run {run} is not in the ledger")
        return value


def _bits(batches: Collection[int]) -> bytes:
    """Bit i, most significant first: batch i is done."""
    bits = bytearray(max(batches, default=-1) // 8 + 1)
    for batch in batches:
        bits[batch // 8] |= 0x80 >> batch % 8
    return bytes(bits)


def _seconds(milliseconds: bytes | None) -> float | None:
    return None if milliseconds is None else int(milliseconds) / 1000


def _vm(vm: str, row: Mapping[bytes, bytes]) -> VmProgress:
    return VmProgress(vm, cast(Any, text(row[b"state"])), row[b"facts"])


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
