"""Which of our calls the user's role would refuse, found out before the night.

XAPI lists in each session of a user who is not root every call that it may make (`session.rbac_permissions`).
"""

from __future__ import annotations

from scheduler.checks.check import Check
from scheduler.checks.pool import pool_subject
from scheduler.checks.pool_facts import PoolFacts
from workers.xenapi.meanings import needed_role

CALLS = {
    "VM.snapshot": "no disk can be backed up",
    "VDI.enable_cbt": "every backup of a disk without tracking is a full one, or fails",
    "VDI.list_changed_blocks": "no backup can be incremental",
    "VDI.get_nbd_info": "no disk can be read",
    "VBD.create": "no disk can be read: the host opens it with our session",
    "VBD.plug": "no disk can be read: the host opens it with our session",
    "VDI.add_to_other_config": "snapshots cannot be tagged as ours",
    "VDI.remove_from_other_config": "snapshots cannot be tagged as ours",
    "VDI.data_destroy": "the data of old snapshots stay",
    "VDI.destroy": "old snapshots stay",
    "VM.destroy": "VM snapshots stay",
}
"""What a backup calls beyond getters, and what does not happen without it."""

_LEAVES = ("VDI.data_destroy", "VDI.destroy", "VM.destroy")
"""Without these a backup is made, and the pool fills up."""


def check_role(facts: PoolFacts) -> list[Check]:
    subject = pool_subject(facts.name)
    name = "pool.role"
    if "role" in facts.failures:
        todo = "the next run will tell; the role must be vm-power-admin or above"
        return [subject.warning(name, f"not known: {facts.failures['role']}", todo)]
    if facts.is_root:
        return [subject.ok(name, "a local superuser: every call is allowed")]
    if facts.permissions is None:
        todo = "make sure that it is vm-power-admin or above"
        return [subject.warning(name, "not known: this pool does not tell what a session may do", todo)]
    refused = [call for call in CALLS if call.lower() not in facts.permissions]
    if not refused:
        return [subject.ok(name, f"all {len(CALLS)} calls of a backup are allowed")]
    found = []
    for why in dict.fromkeys(CALLS[call] for call in refused):
        calls = [call for call in refused if CALLS[call] == why]
        said = f"{', '.join(calls)} would be refused: {why}"
        todo = f"give the user the role {needed_role(calls[-1])} or above"
        make = subject.warning if set(calls) <= set(_LEAVES) else subject.failed
        found.append(make(name, said, todo, calls[0]))
    return found
