"""A policy: its next run, which VMs and disks it means, and which VMs have no point from its last one."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime, timedelta

from scheduler.checks.check import Check, Subject, counted
from scheduler.checks.drives import Chosen
from scheduler.policies.policy import Policy
from scheduler.policies.retention import is_to_come
from scheduler.runs.triggers import newest_slot, slot_run
from workers.repository import ListedPoint, NewestDisks

FEW = 5
"""Lines of one kind on the screen; --verbose shows all."""


def policy_subject(name: str) -> Subject:
    return Subject(f"policy {name}")


def check_schedule(name: str, policy: Policy, now: datetime) -> list[Check]:
    subject = policy_subject(name)
    if policy.slots is None:
        return [subject.ok("policy.schedule", "no schedule: it runs when somebody begins it")]
    following = policy.slots.next(now)
    if following is None:
        return [subject.warning("policy.schedule", "never runs again", "correct its schedule")]
    said = f"next run {following.astimezone(policy.zone):%Y-%m-%d %H:%M} {policy.timezone}"
    if policy.window is not None:
        said += f", stopped at {policy.window.end}"
    return [subject.ok("policy.schedule", said)]


def check_vms(name: str, chosen: Sequence[Chosen]) -> list[Check]:
    subject = policy_subject(name)
    if not chosen:
        todo = "correct include and exclude, or give VMs the tag or name that it asks for"
        return [subject.warning("policy.vms", "chooses no VM: nothing would be backed up", todo)]
    disks = sum(len(each.disks) for each in chosen)
    bare = sum(not each.disks for each in chosen)
    said = f"{counted(len(chosen), 'VM')} with {counted(disks, 'disk')} to back up"
    return [subject.ok("policy.vms", said + (f", {bare} of them without any" if bare else ""))]


def check_dates(name: str, newest: Sequence[tuple[Chosen, NewestDisks]], now: datetime) -> list[Check]:
    """VMs whose newest point is dated in the future: retention neither counts nor forgets it."""
    found = [
        f'VM "{each.vm.name}" of {disks.point.time}'
        for each, disks in newest
        if disks.point is not None and is_to_come(disks.point, now)
    ]
    if not found:
        return []
    said = f"{counted(len(found), 'newest restore point')} dated in the future: {', '.join(found[:FEW])}"
    todo = "set the pool's clock and this machine's; cbtfleet forget removes a point that is to go"
    return [policy_subject(name).warning("policy.dates", said + (", …" if found[FEW:] else ""), todo)]


def last_due(
    name: str, policy: Policy, runs: Collection[str], open_runs: Collection[str], now: datetime
) -> datetime | None:
    """The newest slot whose run should have ended by now; None: nothing was to be done yet.

    `runs` and `open_runs` are names of runs, `runs` of all of them. Of a policy that was never run nothing
    was due: nobody knows since when it exists.
    """
    slots = policy.slots
    slot = slots.latest(now) if slots else None
    if slots is None or slot is None:
        return None
    if slot_run(name, slot) in open_runs or now - slot < timedelta(minutes=5):
        slot = slots.latest(slot - timedelta(seconds=1))
    newest = newest_slot(name, runs, now)
    return slot if slot is not None and newest is not None else None


def check_overdue(
    name: str,
    policy: Policy,
    chosen: Sequence[Chosen],
    points: Mapping[str, Sequence[ListedPoint]],
    due: datetime | None,
    *,
    began: bool,
    all_of_them: bool,
    now: datetime,
) -> list[Check]:
    """VMs without a point since `due`, the worst first. `began`: that run was begun."""
    subject = policy_subject(name)
    newest = {
        each.vm.uuid: points[each.vm.uuid][-1].made or now for each in chosen if points.get(each.vm.uuid)
    }
    if not chosen or policy.slots is None:
        never = sum(each.vm.uuid not in newest for each in chosen)
        said = f"{counted(never, 'VM')} without any restore point; without a schedule none is overdue"
        return [subject.ok("policy.overdue", said)] if never else []
    if due is None:
        return [subject.ok("policy.overdue", "no scheduler has run it yet")]
    late = [
        each
        for each in chosen
        if each.disks and newest.get(each.vm.uuid, datetime.min.replace(tzinfo=UTC)) < due
    ]
    late.sort(key=lambda each: (newest.get(each.vm.uuid, datetime.min.replace(tzinfo=UTC)), each.vm.name))
    since = f"{due.astimezone(policy.zone):%Y-%m-%d %H:%M} {policy.timezone}"
    if not late:
        return [subject.ok("policy.overdue", f"every VM has a restore point since the run of {since}")]
    todo = f"see why: cbtfleet runs; then cbtfleet backup --policy {name}"
    if not began:
        todo = f"that run never began: start cbtfleet scheduler, or now cbtfleet backup --policy {name}"
    found = [
        subject.warning(
            "policy.overdue",
            f"{counted(len(late), 'VM')} without a restore point since the run of {since}",
            todo,
        )
    ]
    for each in late if all_of_them else late[:FEW]:
        time = newest.get(each.vm.uuid)
        said = f"last good point {_age(now - time)} ago" if time else "no restore point at all"
        found.append(subject.warning("policy.overdue.vm", f'VM "{each.vm.name}": {said}', todo, each.vm.uuid))
    return found


def _age(span: timedelta) -> str:
    hours = span.total_seconds() / 3600
    return f"{hours / 24:.1f} days" if hours >= 48 else f"{hours:.0f} h"
