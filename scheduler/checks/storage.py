"""The storage under the disks of the policies: plugged in where, and does it track changed blocks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection

from scheduler.checks.check import Check, counted
from scheduler.checks.pool import pool_subject
from scheduler.checks.pool_facts import PoolFacts
from workers.xenapi import XapiRecord

_CBT = "VDI_CONFIG_CBT"
"""The feature of a storage manager's driver that means changed-block tracking."""

_NO_DISKS = {"iso", "udev"}
"""Types of storage that hold CD images and host devices, never a VM's disk."""


def tracks_changes(facts: PoolFacts, storage: XapiRecord) -> bool:
    """Whether the storage's driver can track changed blocks."""
    return any(
        _CBT in driver.get("features", ())
        for driver in facts.of("SM").values()
        if driver["type"] == storage["type"]
    )


def check_storage(facts: PoolFacts, disks: Collection[str] | None) -> list[Check]:
    """A Check of each storage that holds one of `disks` (VDI references); None: of all that can."""
    subject, name = pool_subject(facts.name), "pool.storage"
    held: Counter[str] = Counter()
    if disks is None:
        held.update(
            ref
            for ref, storage in facts.of("SR").items()
            if storage["type"] not in _NO_DISKS and storage.get("content_type") != "iso"
        )
    else:
        held.update(str(facts.of("VDI")[disk]["SR"]) for disk in disks if disk in facts.of("VDI"))
    found = []
    for ref, storage in sorted(facts.of("SR").items(), key=lambda item: str(item[1]["name_label"])):
        if ref not in held:
            continue
        label = storage["name_label"]
        kind = f"{storage['type']}, {'shared' if storage.get('shared') else 'local'}"
        what = f"{label} ({kind})" + (f", {counted(held[ref], 'disk')}" if disks is not None else "")
        hosts = facts.plugged_hosts(ref)
        if not hosts:
            make = subject.failed if disks is not None else subject.warning
            todo = "plug its PBD in on a live host: xe pbd-plug uuid=PBD, if it holds disks"
            found.append(make(name, f"{what}: plugged in to no live host", todo, label))
        elif not tracks_changes(facts, storage):
            said = f"{what}: cannot track changed blocks: every backup would be a full one"
            todo = "move disks that are backed up to storage that can"
            found.append(subject.warning(name, said, todo, label))
        else:
            names = ", ".join(sorted(facts.host_name(host) for host in hosts))
            found.append(subject.ok(name, f"{what}: tracks changed blocks; plugged in on {names}", label))
    if not found and disks is None:
        said = "no storage for disks was found"
        return [subject.warning(name, said, "does the user see all of the pool?")]
    return found
