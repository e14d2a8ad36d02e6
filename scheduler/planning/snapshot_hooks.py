"""A VM's snapshot between the operator's two hooks.

    before_snapshot --> the snapshot --> after_snapshot
       | fails: skip the VM, or go on and say so
       +------------------------------------^   runs in every case once before_snapshot was begun

That it was begun is in the ledger before it is begun: when a scheduler dies between the two, whoever plans
the VM next runs `after_snapshot` first.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

from scheduler.context import ControlContext
from scheduler.hooks import AFTER_SNAPSHOT, BEFORE_SNAPSHOT, HookFailed, run_hook
from scheduler.policies.policy import Hooks, parse_policies
from scheduler.policies.requests import RunRequest
from scheduler.pool_objects.snapshots import VmSnapshot
from scheduler.runs.facts import VmInHand
from workers.xenapi import XapiRecord

log = logging.getLogger(__name__)


class SnapshotHooks:
    """Those of one VM in one run; the VM's facts get their `warnings`."""

    def __init__(self, context: ControlContext, request: RunRequest, vm: VmInHand) -> None:
        self._vm = vm
        self._about = f'VM "{vm.facts.name}"'
        self._document: dict[str, object] = {
            "run": vm.run,
            "policy": request.policy,
            "pool": request.pool,
            "vm": vm.facts.name,
            "vm_uuid": vm.uuid,
        }
        self._hooks = _hooks_of(context, request.policy)

    def end_interrupted(self) -> None:
        """Runs `after_snapshot` if a scheduler died after it had begun with `before_snapshot`."""
        if self._vm.facts.hooks_begun:
            log.warning("%s: a scheduler died between its hooks", self._about)
            self._after({"snapshot": None, "error": "the scheduler died", "before_snapshot": None})
            self._note_begun(False)

    def around(self, disks: Iterable[XapiRecord], take: Callable[[], VmSnapshot]) -> VmSnapshot:
        """What `take` returns; `disks` are the VDI records to name to the hooks.

        Raises HookFailed when `before_snapshot` failed and the policy says skip, and what `take` raises.
        """
        self._document["disks"] = [
            {
                "vdi": disk["uuid"],
                "name": disk["name_label"],
                "virtual_size": int(disk["virtual_size"]),
            }
            for disk in disks
        ]
        end: dict[str, object] = {"snapshot": None, "error": "no snapshot was taken", "before_snapshot": None}
        try:
            self._before(end)
            snapshot = take()
            end |= {"snapshot": snapshot.uuid, "time": snapshot.time, "error": None}
            return snapshot
        except Exception as error:
            end["error"] = str(error)
            raise
        finally:
            self._after(end)
            if self._vm.facts.hooks_begun:
                self._note_begun(False)

    def _before(self, end: dict[str, object]) -> None:
        """Raises HookFailed."""
        command = self._hooks.before_snapshot
        if not command:
            return
        self._note_begun(True)
        end["before_snapshot"] = "failed"
        try:
            run_hook(BEFORE_SNAPSHOT, command, self._document, self._hooks.timeout, self._about)
            end["before_snapshot"] = "succeeded"
        except HookFailed as error:
            if self._hooks.on_failure == "skip":
                raise HookFailed(f"not backed up, as its {error}") from error
            self._warn(f"backed up all the same, but its {error}")

    def _note_begun(self, begun: bool) -> None:
        self._vm.facts = replace(self._vm.facts, hooks_begun=begun)
        self._vm.keep()

    def _after(self, end: Mapping[str, object]) -> None:
        command = self._hooks.after_snapshot
        if command:
            try:
                document = {**self._document, **end}
                run_hook(AFTER_SNAPSHOT, command, document, self._hooks.timeout, self._about)
            except HookFailed as error:
                self._warn(f"its {error}")

    def _warn(self, line: str) -> None:
        log.warning("%s: %s", self._about, line)
        self._vm.warn(f"{self._about}: {line}")


def _hooks_of(context: ControlContext, policy_name: str | None) -> Hooks:
    """From the scheduler's configuration, never from Redis: who can write there must not run programs."""
    policy = parse_policies(context.settings).get(policy_name) if policy_name else None
    if policy_name and policy is None:
        log.warning("policy %s is not in the configuration of this scheduler: no hooks are run", policy_name)
    return policy.hooks if policy is not None else Hooks()
