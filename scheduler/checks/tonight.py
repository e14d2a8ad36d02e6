"""What the next run would do with each disk: planning's own decision, over facts that were gathered before.

Nothing is asked, nothing is changed. What only asking tells (`CANNOT_TELL`: a broken chain of changed blocks)
shows in the run; here such a disk is incremental.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from scheduler.checks.check import Check, State, Subject, counted
from scheduler.checks.disk_states import DiskStates
from scheduler.checks.drives import Chosen
from scheduler.checks.policy import FEW, policy_subject
from scheduler.checks.pool_facts import NotRead, PoolFacts
from scheduler.planning.disk_choice import EXCLUDE_TAG, Drive, Skipped
from scheduler.planning.full_reason import Reason, full_reason, left_out
from scheduler.policies.policy import Untracked
from workers.repository import NewestDisks

UNPLUGGED = Reason("its storage is plugged in to no live host", "plug its PBD in on a live host")

Mode = Literal["incremental", "full", "skipped", "impossible"]


@dataclass(frozen=True)
class Outlook:
    """What becomes of one disk."""

    mode: Mode
    why: Reason | None = None
    detail: str = ""
    """What is known of the reason for this disk alone."""
    unknown: str = ""
    """Why nobody knows whether its log lacks writes, and so whether it is read in full after all."""


@dataclass(frozen=True)
class DiskTonight:
    vm_name: str
    disk: str
    name: str
    outlook: Outlook


def forecast(
    facts: PoolFacts, without_tracking: Untracked, newest: Iterable[tuple[Chosen, NewestDisks]]
) -> list[DiskTonight]:
    """Every disk of the VMs that are chosen from one pool, each VM with what its newest restore points tell.

    Raises NotRead.
    """
    states = DiskStates(facts)
    found = []
    for vm, points in newest:
        left = {drive.ref: _left_out(states, drive, without_tracking) for drive in vm.drives}
        present = [str(drive.disk["uuid"]) for drive in vm.drives if left[drive.ref] is None]
        for drive in vm.drives:
            outlook = left[drive.ref] or _backed_up(states, drive, vm.vm.uuid, points, present)
            uuid, name = drive.disk["uuid"], drive.disk["name_label"]
            found.append(DiskTonight(vm.vm.name, uuid, name, outlook))
    return found


def _left_out(states: DiskStates, drive: Drive, without_tracking: Untracked) -> Outlook | None:
    if not states.is_plugged(drive):
        return Outlook("impossible", UNPLUGGED)
    tracking = states.tracking(drive)
    out = left_out(tracking, without_tracking)
    return None if out is None else Outlook("skipped" if out == "skip" else "impossible", tracking)


def _backed_up(
    states: DiskStates, drive: Drive, vm_uuid: str, points: NewestDisks, present: Sequence[str]
) -> Outlook:
    try:
        reason = full_reason(*states.of(drive, vm_uuid, points, present))
    except NotRead as error:  # of messages, which are asked for last of all
        return Outlook("incremental", unknown=str(error))
    return Outlook("full", reason.why, reason.detail) if reason is not None else Outlook("incremental")


def check_tonight(name: str, disks: Sequence[DiskTonight], *, all_of_them: bool) -> list[Check]:
    """The counts; then the disks that would fail, be left out, or be read in full, with reasons."""
    if not disks:
        return []
    subject = policy_subject(name)
    modes = Counter(disk.outlook.mode for disk in disks)
    said = f"the next run: {modes['incremental']} incremental, {modes['full']} full"
    found = [subject.ok("policy.tonight", said), *_check_unknown(subject, disks)]
    for mode, group, each, text in (
        ("impossible", "policy.failing", "policy.failing.disk", "would fail"),
        ("skipped", "policy.skipped", "policy.skipped.disk", "left out"),
        ("full", "policy.full", "policy.full.disk", "will be read in full"),
    ):
        of_mode = [disk for disk in disks if disk.outlook.mode == mode]
        reasons = Counter(disk.outlook.why for disk in of_mode if disk.outlook.why is not None)
        order = sorted(reasons.items(), key=lambda item: (not item[0].todo, -item[1], item[0].said))
        for reason, number in order:
            state: State = "failed" if mode == "impossible" else "warning" if reason.todo else "ok"
            said = f"{counted(number, 'disk')} {text}: {reason.said}"
            found.append(Check(subject.title, group, state, said, reason.todo))
            listed = [disk for disk in of_mode if disk.outlook.why == reason]
            for disk in listed if all_of_them else listed[:FEW]:
                detail = f": {disk.outlook.detail}" if disk.outlook.detail else ""
                line = f'VM "{disk.vm_name}", disk {disk.name or disk.disk}{detail}'
                found.append(Check(subject.title, each, state, line, reason.todo, disk.disk))
    return found


def _check_unknown(subject: Subject, disks: Sequence[DiskTonight]) -> list[Check]:
    unknown = [disk.outlook.unknown for disk in disks if disk.outlook.unknown]
    if not unknown:
        return []
    said = (
        f"{counted(len(unknown), 'disk')} of VMs that are off may be read in full after all: whether a host"
        f" went down under them is not known: {unknown[0]}"
    )
    return [subject.warning("policy.tonight", said, "set that right, and look again")]


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
