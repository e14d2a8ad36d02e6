"""What planning would find out of a disk, from a pool's records: the facts for `full_reason`."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from scheduler.checks.pool_facts import NotRead, PoolFacts
from scheduler.checks.storage import tracks_changes
from scheduler.planning.cbt_log import LogSinceBase
from scheduler.planning.changes import disk_before
from scheduler.planning.disk_choice import Drive
from scheduler.planning.full_reason import (
    CANNOT_TRACK,
    SWITCHED_ON,
    Base,
    ChangeLog,
    DiskState,
    LastDisk,
    Reason,
    Unreadable,
)
from workers.repository import NewestDisks
from workers.xenapi import XapiRecord


@dataclass(frozen=True)
class GatheredMessages:
    """`Messages` that were read beforehand."""

    facts: PoolFacts

    def of_disk(self, uuid: str, since: str) -> Iterable[XapiRecord]:
        try:
            return self.facts.messages_about(uuid, since) or ()
        except NotRead:
            return ()

    def of_vm(self, uuid: str, since: str) -> Iterable[XapiRecord] | None:
        """Raises NotRead."""
        return self.facts.messages_about(uuid, since)


class DiskStates:
    """Of one pool's disks behind drives that were chosen. The methods raise NotRead."""

    def __init__(self, facts: PoolFacts) -> None:
        self._facts = facts
        self._by_uuid = {disk["uuid"]: disk for disk in facts.of("VDI").values()}
        self._power = {vm["uuid"]: str(vm.get("power_state", "")) for vm in facts.of("VM").values()}
        self._licensed = not any(
            pool.get("restrictions", {}).get("restrict_cbt") == "true" for pool in facts.of("pool").values()
        )
        self._plugged: dict[str, bool] = {}
        self._tracks: dict[str, bool] = {}

    def is_plugged(self, drive: Drive) -> bool:
        """Whether a live host has the drive's storage plugged in."""
        storage = drive.disk["SR"]
        if storage not in self._plugged:
            self._plugged[storage] = bool(self._facts.plugged_hosts(storage))
        return self._plugged[storage]

    def tracking(self, drive: Drive) -> Reason | None:
        """As `switch_on` would find it, in the order of XAPI's own checks. What the storage manager would say
        beyond that a disk is raw, only asking tells."""
        vdi = drive.disk
        if vdi["cbt_enabled"]:
            return None
        storage = vdi["SR"]
        if storage not in self._tracks:
            self._tracks[storage] = tracks_changes(self._facts, self._facts.of("SR")[storage])
        if not self._tracks[storage]:
            return CANNOT_TRACK["SR_OPERATION_NOT_SUPPORTED"]
        if vdi["type"] not in ("user", "system"):
            return CANNOT_TRACK["VDI_INCOMPATIBLE_TYPE"]
        if not self._licensed:
            return CANNOT_TRACK["LICENCE_RESTRICTION"]
        if vdi.get("sm_config", {}).get("type") == "raw":
            return CANNOT_TRACK["SR_BACKEND_FAILURE_66"]
        return SWITCHED_ON

    def of(
        self, drive: Drive, vm_uuid: str, newest: NewestDisks, present: Collection[str]
    ) -> tuple[DiskState, ChangeLog]:
        """`present` are the uuids of the disks that the VM is snapshotted with."""
        vdi = drive.disk
        point = newest.disks.get(vdi["uuid"])
        base = self._by_uuid.get(point.snapshot) if point is not None else None
        last: LastDisk = point
        before = None
        if point is None and newest.damage:
            last = Unreadable(newest.damage)
        elif point is None:
            before = disk_before(newest.newest, drive.place, present)
        state = DiskState(
            sr=self._storage(vdi),
            size=int(vdi["virtual_size"]),
            tracked=True,  # or switched on before the snapshot; else `tracking` says so
            tracking=self.tracking(drive),
            last=last,
            before=before,
            base=Base(self._storage(base), bool(base["cbt_enabled"])) if base is not None else None,
        )
        power = self._power.get(vm_uuid, "")
        log = LogSinceBase(GatheredMessages(self._facts), vdi["uuid"], vm_uuid, power, base or {})
        return state, log

    def _storage(self, vdi: XapiRecord) -> str:
        return str(self._facts.of("SR").get(vdi["SR"], {}).get("uuid", ""))
