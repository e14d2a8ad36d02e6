"""What the next run would do with each disk, judged by records alone: nothing is asked, nothing is changed.

The order is that of planning (`scheduler/planning/changes.py`), which asks the pool in the end: a
broken chain of changed blocks shows only then.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from scheduler.checks.check import Check, State, counted
from scheduler.checks.drives import Chosen
from scheduler.checks.policy import FEW, policy_subject
from scheduler.checks.pool_facts import PoolFacts
from scheduler.checks.storage import tracks_changes
from scheduler.planning.disk_choice import EXCLUDE_TAG, Skipped
from scheduler.policies.policy import Untracked
from workers.repository import DiskPoint
from workers.xenapi import XapiRecord


@dataclass(frozen=True)
class Reason:
    """Why a disk is read in full, or not at all; `todo` is "" when there is nothing to do."""

    said: str
    state: State
    todo: str = ""


FIRST = Reason("the first backup of this disk in this repository", "ok")
OFF = Reason("changed-block tracking is off; the run switches it on", "ok")
NO_LICENCE = Reason(
    "the pool's licence does not include changed-block tracking", "warning", "license the pool for it"
)
NO_FEATURE = Reason("the storage cannot track changed blocks", "warning", "move the disk to storage that can")
RAW = Reason(
    "a disk of this kind (raw) cannot track changed blocks", "warning", "convert it, or live with it"
)
UNREADABLE = Reason(
    "the last restore point cannot be read", "warning", "cbtfleet verify says what is damaged"
)
BASE_GONE = Reason(
    "the base snapshot is no longer on the pool", "warning", "find out who deletes snapshots without data"
)
MOVED = Reason("the disk has moved to another storage repository since the last backup", "ok")
BASE_OFF = Reason(
    "changed-block tracking was off at the base snapshot", "warning", "see the pool's messages of that time"
)
SHRUNK = Reason("the disk is smaller than at the last backup", "warning", "is it still the same disk?")

ODD_TYPE = Reason("only disks of type user or system can track changed blocks", "warning", "copy it to one")
UNPLUGGED = Reason("its storage is plugged in to no live host", "failed", "plug its PBD in on a live host")


CANNOT_TRACK = (NO_LICENCE, NO_FEATURE, RAW, ODD_TYPE)
"""What becomes of these is the policy's `without_tracking`."""

Mode = Literal["incremental", "full", "skipped", "impossible"]


@dataclass(frozen=True)
class DiskTonight:
    vm: str
    vm_name: str
    disk: str
    name: str
    size: int
    mode: Mode
    reason: Reason | None


Last = Mapping[str, DiskPoint]
"""By uuid of the live VDI: the disk in the newest point that holds it."""


class Outlook:
    """One pool's disks, one after the other. `without_tracking` is the policy's."""

    def __init__(self, facts: PoolFacts, without_tracking: Untracked = "full") -> None:
        self._facts = facts
        self._without_tracking = without_tracking
        self._by_uuid = {disk["uuid"]: disk for disk in facts.of("VDI").values()}
        self._licensed = not any(
            pool.get("restrictions", {}).get("restrict_cbt") == "true" for pool in facts.of("pool").values()
        )
        self._plugged: dict[str, bool] = {}
        self._tracks: dict[str, bool] = {}

    def of(self, vm_uuid: str, vm_name: str, ref: str, last: Last | None) -> DiskTonight:
        """`last` is None when the VM's newest point is damaged."""
        disk = self._facts.of("VDI")[ref]
        mode, reason = self._judge(disk, last)
        size = int(disk["virtual_size"])
        return DiskTonight(vm_uuid, vm_name, disk["uuid"], disk["name_label"], size, mode, reason)

    def _judge(self, disk: XapiRecord, last: Last | None) -> tuple[Mode, Reason | None]:
        storage = disk["SR"]
        if storage not in self._plugged:
            self._plugged[storage] = bool(self._facts.plugged_hosts(storage))
        if not self._plugged[storage]:
            return "impossible", UNPLUGGED
        reason = self._why_full(disk, last)
        if reason in CANNOT_TRACK and self._without_tracking != "full":
            return ("skipped" if self._without_tracking == "skip" else "impossible"), reason
        return ("full" if reason else "incremental"), reason

    def _why_full(self, disk: XapiRecord, last: Last | None) -> Reason | None:
        if not disk["cbt_enabled"]:
            return self._why_off(disk)
        if last is None:
            return UNREADABLE
        point = last.get(disk["uuid"])
        if point is None:
            return FIRST
        base = self._by_uuid.get(point.snapshot)
        if base is None:
            return BASE_GONE
        if base["SR"] != disk["SR"]:
            return MOVED
        if not base["cbt_enabled"]:
            return BASE_OFF
        return SHRUNK if int(disk["virtual_size"]) < point.virtual_size else None

    def _why_off(self, disk: XapiRecord) -> Reason:
        if disk["type"] not in ("user", "system"):
            return ODD_TYPE
        storage = disk["SR"]
        if storage not in self._tracks:
            self._tracks[storage] = tracks_changes(self._facts, self._facts.of("SR")[storage])
        if not self._tracks[storage]:
            return NO_FEATURE
        if disk.get("sm_config", {}).get("type") == "raw":
            return RAW
        return OFF if self._licensed else NO_LICENCE


def check_tonight(name: str, disks: Sequence[DiskTonight], *, all_of_them: bool) -> list[Check]:
    """The counts; then the disks that would fail, be left out, or be read in full, with reasons."""
    if not disks:
        return []
    subject = policy_subject(name)
    modes = Counter(disk.mode for disk in disks)
    said = f"the next run: {modes['incremental']} incremental, {modes['full']} full"
    found = [subject.ok("policy.tonight", said)]
    for mode, group, each, text in (
        ("impossible", "policy.failing", "policy.failing.disk", "would fail"),
        ("skipped", "policy.skipped", "policy.skipped.disk", "left out"),
        ("full", "policy.full", "policy.full.disk", "will be read in full"),
    ):
        reasons = Counter(disk.reason for disk in disks if disk.mode == mode and disk.reason)
        order = sorted(reasons.items(), key=lambda item: (item[0].state == "ok", -item[1], item[0].said))
        for reason, number in order:
            state: State = "failed" if mode == "impossible" else reason.state
            said = f"{counted(number, 'disk')} {text}: {reason.said}"
            found.append(Check(subject.title, group, state, said, reason.todo))
            listed = [disk for disk in disks if disk.mode == mode and disk.reason == reason]
            for disk in listed if all_of_them else listed[:FEW]:
                line = f'VM "{disk.vm_name}", disk {disk.name or disk.disk}'
                found.append(Check(subject.title, each, state, line, reason.todo, disk.disk))
    return found


def check_skipped(name: str, chosen: Sequence[Chosen], *, all_of_them: bool) -> list[Check]:
    """The drives that are left out, by reason. Disks that nobody asked to leave out are named."""
    subject = policy_subject(name)
    by_reason: dict[str, list[tuple[Chosen, Skipped]]] = {}
    for each in chosen:
        for drive in each.skipped:
            reason = "the run backs it up with another VM" if drive.elsewhere else drive.reason
            by_reason.setdefault(reason, []).append((each, drive))
    found = []
    for reason, drives in sorted(by_reason.items(), key=lambda item: (-len(item[1]), item[0])):
        unasked = [(each, drive) for each, drive in drives if _is_unasked(drive)]
        todo = f"tag it {EXCLUDE_TAG} if that is meant; it is in no backup" if unasked else ""
        state: State = "warning" if unasked else "ok"
        said = f"{counted(len(drives), 'drive')} left out: {reason}"
        found.append(Check(subject.title, "policy.skipped", state, said, todo))
        for each, drive in drives if all_of_them else unasked[:FEW]:
            line = f'VM "{each.vm.name}", {drive.name or "no drive"}'
            found.append(Check(subject.title, "policy.skipped.disk", state, line, todo, drive.vdi or ""))
    return found


def _is_unasked(drive: Skipped) -> bool:
    """A disk of data that is in no backup, though neither tag nor policy says so."""
    return drive.ref != "" and not drive.elsewhere and not drive.reason.startswith("excluded ")
