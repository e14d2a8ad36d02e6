"""Runs in the ledger: their VMs and disks, and how they end."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from typing import cast

from workers.fleet.errors import UnknownToLedger
from workers.fleet.keys import KEYS, plain
from workers.fleet.scripts import Scripts, request_id, short, text
from workers.fleet.values import DiskWork, RunState, VmState, packed, unpacked


class Runs:
    """What is kept of a run and of a VM as `facts` is the scheduler's: the ledger does not look into it."""

    def __init__(self, scripts: Scripts) -> None:
        self._scripts = scripts

    def create_run(self, run: str, facts: bytes) -> bool:
        """Creates the run and its `plan-run` step; False when the run exists already."""
        return bool(self._scripts.call("create_run", plain("run", run), packed(facts), request_id()))

    def add_vms(self, run: str, vms: Mapping[str, bytes]) -> None:
        """Adds VMs (uuid -> facts) and a `plan-vm` step for each new one; a run without any VM gets its
        `end-run` step. VMs that are there already keep their facts and state.

        Many are added in several calls. Who failed between two has to do it again, or to add no VM: before
        that the run does not end.
        """
        rows = [(plain("VM", vm), packed(facts)) for vm, facts in vms.items()]
        at_once = self._scripts.limits.vms_at_once
        for start in range(0, max(len(rows), 1), at_once):
            some = [part for row in rows[start : start + at_once] for part in row]
            self._scripts.call("add_vms", run, int(start + at_once < len(rows)), *some)

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

    def finish_vm(self, run: str, vm: str, facts: bytes | None = None) -> None:
        """Ends the VM, also one that was never started; new facts replace the old ones. The run's last VM
        makes its `end-run` step. Raises LedgerError while disks of the VM stream."""
        self._scripts.call("finish_vm", run, vm, "" if facts is None else packed(facts))

    def end_run(self, run: str, result: bytes) -> None:
        """Ends the run; its keys expire after `Timing.keep_ended`. Raises LedgerError while VMs are left. Who
        failed in the middle has to do it again: the keys of a large run are gone through in several calls."""
        self._scripts.call("end_run", run, packed(result))
        while self._scripts.call("expire_more", run):
            pass

    def cancel(self, run: str) -> bool:
        """Cancels every disk that still streams or is started later; their streams are told CANCEL. False
        when the run was cancelled before or has ended. A large run takes several calls; if the caller dies,
        `sweep` goes on."""
        cancelled = self._scripts.call("cancel", run)
        self._stop_all(run)
        return bool(cancelled)

    def stop(self, run: str, error: str) -> int | None:
        """Gives up every disk that still streams, or is started later with batches left; `error` says why.
        Their streams are told EMPTY. How many these were; None when the run was stopped or cancelled before,
        or has ended. As `cancel`, several calls."""
        stopped = self._scripts.call("stop_run", run, short(error))
        ended = self._stop_all(run)
        return ended if stopped else None

    def _stop_all(self, run: str) -> int:
        """How many disks this caller has ended."""
        total, more = 0, True
        while more:
            ended, more = self._scripts.call("stop_more", run)
            total += ended
        return total

    def is_cancelled(self, run: str) -> bool:
        return self._scripts.command("HGET", KEYS["run"] + run, "cancelled") is not None

    def run_states(self) -> dict[str, RunState]:
        """The state of each run that the ledger still knows, oldest first; two round trips for all."""
        names: list[bytes] = self._scripts.command("ZRANGE", KEYS["runs"], 0, -1)
        states = self._scripts.commands([("HGET", KEYS["run"] + text(name), "state") for name in names])
        return {
            text(name): cast(RunState, text(state))
            for name, state in zip(names, states, strict=True)
            if state is not None
        }

    def runs(self) -> list[str]:
        """The runs that the ledger still knows, oldest first."""
        return list(self.run_states())

    def run_state(self, run: str) -> RunState:
        return cast(RunState, text(self._run_field(run, "state")))

    def run_facts(self, run: str) -> bytes:
        return unpacked(self._run_field(run, "facts"))

    def set_run_facts(self, run: str, facts: bytes) -> None:
        self._scripts.call("set_run_facts", run, packed(facts))

    def run_result(self, run: str) -> bytes | None:
        """What `end_run` was given; None before, or when the run is not known (any more)."""
        result: bytes | None = self._scripts.command("HGET", KEYS["run"] + run, "result")
        return None if result is None else unpacked(result)

    def vm_facts(self, run: str, vm: str) -> bytes:
        return unpacked(self._vm_field(run, vm, "facts"))

    def vm_state(self, run: str, vm: str) -> VmState:
        return cast(VmState, text(self._vm_field(run, vm, "state")))

    def _vm_field(self, run: str, vm: str, field: str) -> bytes:
        value: bytes | None = self._scripts.command("HGET", f"{KEYS['vm']}{run}/{vm}", field)
        if value is None:
            raise UnknownToLedger(f"VM {vm} is not in run {run}")
        return value

    def set_vm_facts(self, run: str, vm: str, facts: bytes) -> None:
        """No effect on a VM that is finished: it keeps what `finish_vm` was given."""
        self._scripts.call("set_vm_facts", run, vm, packed(facts))

    def plan(self, run: str, disk: str) -> bytes:
        """The disk's packed plan. Raises UnknownToLedger once the disk has ended."""
        plan = self._scripts.command("HGET", KEYS["plans"] + run, disk)
        if plan is None:
            raise UnknownToLedger(
                f"disk {disk} of run {run} has no plan: it has ended, or the ledger lost it"
            )
        return bytes(plan)

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
