"""XAPI's messages that tell what became of disks' change logs: one question a pool, whatever its size.

XAPI keeps the newest 10,000 messages in files named by their times. `message.get_since` reads those alone
that are later than what it is asked for (xapi_message.ml). A question for each VM and disk would be
thousands, and `get_all_records` reads them all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from scheduler.planning.cbt_log import later_than, taken_at
from scheduler.pool_objects.ownership import TAG_REPOSITORY, tag_of
from workers.xenapi import Session, XapiFailure, XapiRecord, XapiRecords, is_unknown_call


@dataclass(frozen=True)
class PoolMessages:
    """All messages of `since` (ISO 8601; None: of no time) or later, as records by the uuid of the object
    that they are about."""

    since: str | None
    by_object: Mapping[str, Sequence[XapiRecord]]
    kept: bool = True
    """False: this pool does not know the question, so nothing is known of its messages."""


def messages_matter_since(vms: XapiRecords, vbds: XapiRecords, disks: XapiRecords) -> str | None:
    """The time of the oldest base whose change log messages tell more of: that of a disk whose tracking is or
    was off, or that a VM has which is off. None: there is none."""
    off = {ref for ref, vm in vms.items() if vm.get("power_state") == "Halted"}
    theirs = {vbd["VDI"] for vbd in vbds.values() if vbd["VM"] in off}
    doubtful = {disk["uuid"] for ref, disk in disks.items() if ref in theirs or not disk["cbt_enabled"]}
    times = []
    for disk in disks.values():
        tag = tag_of(disk, disk["other_config"].get(TAG_REPOSITORY, ""))
        if tag is not None and (tag.disk in doubtful or not disk["cbt_enabled"]):
            times.append(taken_at(disk))
    return min(times, default=None)


def read_messages(session: Session, since: str | None) -> PoolMessages:
    """Asks for those of `since` or later; None: for none. Raises XapiError."""
    if since is None:
        return PoolMessages(None, {})
    try:
        found = session.call("message.get_since", later_than(since))
    except XapiFailure as failure:
        if not is_unknown_call(failure):
            raise
        return PoolMessages(since, {}, kept=False)
    by_object: dict[str, list[XapiRecord]] = {}
    for record in found.values():
        by_object.setdefault(str(record["obj_uuid"]), []).append(record)
    return PoolMessages(since, by_object)
