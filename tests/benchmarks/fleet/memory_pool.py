"""A pool's XenAPI as dictionaries in this process, for thousands of VMs: what planning and finishing ask.

Nothing is sent, so that XML-RPC and TLS are not what is measured, and nothing is checked: what the calls mean
is the simulator's business.
"""

from __future__ import annotations

import base64
import random
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, cast

from scheduler.pool_objects.ownership import OwnershipTag
from workers.extents import BLOCK_SIZE
from workers.repository import DiskPoint, Point, Repository, point_id
from workers.settings import PoolSettings
from workers.xenapi import XapiFailure
from workers.xenapi.memory import PoolMemory

EARLIER_RUN = "20260101T010000Z-000000"
BLOCKS = 256
"""Of a disk, 16 MiB; the first one changes every night."""
NULL = "OpaqueRef:NULL"
Record = dict[str, Any]


@dataclass(frozen=True)
class Size:
    vms: int
    disks: int = 1
    hosts: int = 16
    storages: int = 20
    """Shared by all hosts; a VM has its disks on one."""
    snapshot: float = 0.0
    """Seconds that VM.snapshot takes."""
    changed: bool = True
    """Whether the first block of each disk changes, or nothing."""


class MemoryPool:
    """The same uuids whoever makes it. Every disk has a base snapshot, of the restore point that
    `commit_earlier` makes."""

    def __init__(self, size: Size, repository_id: str) -> None:
        self.size = size
        self._lock = threading.Lock()
        self._rng = random.Random(4)
        self._repository = repository_id
        self.tables: dict[str, dict[str, Record]] = {
            kind: {}
            for kind in ("VM", "VBD", "VDI", "SR", "host", "host_metrics", "network", "PIF", "PBD", "SM")
        }
        self._refs: dict[str, str] = {}
        self._add_hosts()
        self._add_vms()

    def _add(self, kind: str, **fields: Any) -> str:
        name = str(uuid.UUID(int=self._rng.getrandbits(128), version=4))
        ref = f"OpaqueRef:{name}"
        self.tables[kind][ref] = {"uuid": name, **fields}
        self._refs[name] = ref
        return ref

    def _add_hosts(self) -> None:
        network = self._add("network", name_label="nbd", purpose=["nbd"])
        self._add("SM", type="lvm", features={"VDI_SNAPSHOT": "1"}, capabilities=[])
        self.storages = [self._add("SR", name_label=f"sr {n}", type="lvm") for n in range(self.size.storages)]
        self.hosts = []
        for number in range(self.size.hosts):
            address = f"10.0.{number // 250}.{number % 250 + 1}"
            names = {"name_label": f"host-{number}", "hostname": f"host-{number}"}
            metrics = self._add("host_metrics", live=True)
            host = self._add("host", **names, address=address, enabled=True, metrics=metrics)
            self._add("PIF", host=host, network=network, IP=address, IPv6=[], currently_attached=True)
            self.hosts.append(host)
            for storage in self.storages:
                self._add("PBD", host=host, SR=storage, currently_attached=True)
        self._nbd_info = [
            {"address": host["address"], "port": 10809, "cert": "", "subject": host["hostname"]}
            for host in (self.tables["host"][ref] for ref in self.hosts)
        ]

    def _add_vms(self) -> None:
        for number in range(self.size.vms):
            vm = self._vm(f"vm-{number:05}", self.hosts[number % len(self.hosts)])
            for position in range(self.size.disks):
                storage = self.storages[number % len(self.storages)]
                disk = self._vdi(f"{number:05} disk {position}", storage)
                self._plug(vm, disk, position)
                base = self._vdi(f"{number:05} disk {position}", storage, snapshot_of=disk)
                self.tables["VDI"][base]["type"] = "cbt_metadata"
                self.tables["VDI"][disk]["snapshots"].append(base)
                ids = (self._uuid(base), self._uuid(vm), self._uuid(disk))
                OwnershipTag(EARLIER_RUN, self._repository, *ids, "").write(cast(Any, self), base)

    def _uuid(self, ref: str) -> str:
        return ref.removeprefix("OpaqueRef:")

    def _vm(self, name: str, host: str, **fields: Any) -> str:
        ordinary = {"is_a_template": False, "is_control_domain": False, "is_a_snapshot": False, "tags": []}
        state = {"power_state": "Running", "resident_on": host, "snapshot_of": NULL, "snapshot_info": {}}
        return self._add("VM", name_label=name, **{**ordinary, **state, **fields}, VBDs=[], snapshots=[])

    def _vdi(self, name: str, storage: str, snapshot_of: str = NULL) -> str:
        made = datetime.now(UTC).strftime("%Y%m%dT%H:%M:%SZ") if snapshot_of != NULL else "19700101T00:00:00Z"
        said = {"managed": True, "missing": False, "sharable": False, "on_boot": "persist", "tags": []}
        return self._add(
            "VDI", name_label=name, SR=storage, virtual_size=str(BLOCKS * BLOCK_SIZE), cbt_enabled=True,
            type="user", other_config={}, VBDs=[], snapshots=[], snapshot_of=snapshot_of, snapshot_time=made,
            is_a_snapshot=snapshot_of != NULL, **said,
        )  # fmt: skip

    def _plug(self, vm: str, disk: str, position: int) -> None:
        vbd = self._add("VBD", VM=vm, VDI=disk, userdevice=str(position), type="Disk", empty=False)
        self.tables["VM"][vm]["VBDs"].append(vbd)
        self.tables["VDI"][disk]["VBDs"].append(vbd)

    def commit_earlier(self, repository: Repository, vms: int) -> None:
        """A restore point of each of the first VMs, of the base snapshots, with nothing in it."""
        for vm in list(self.tables["VM"].values())[:vms]:
            disks = []
            for vbd in (self.tables["VBD"][ref] for ref in vm["VBDs"]):
                disk = self.tables["VDI"][vbd["VDI"]]
                base = self._uuid(disk["snapshots"][0])
                place = (vbd["userdevice"], BLOCKS * BLOCK_SIZE, base, self._uuid(disk["SR"]))
                disks.append(DiskPoint(disk["uuid"], disk["name_label"], *place, "full", None, 0, 0, 0, ()))
            name = (vm["name_label"], vm["uuid"])
            repository.commit_point(
                Point(
                    point_id(EARLIER_RUN, vm["uuid"]), *name, "2026-01-01T01:00:00Z", EARLIER_RUN, "lab",
                    tuple(disks), "nightly",
                )
            )  # fmt: skip

    # -- the calls

    def call(self, method: str, *args: Any) -> Any:
        kind, _, verb = method.partition(".")
        special = getattr(self, f"_{kind}_{verb}", None)
        with self._lock:
            if special is not None:
                return special(*args)
            if verb.startswith("get_all_records"):
                return dict(self.tables.get(kind, {}))
            if verb == "get_all":
                return list(self.tables[kind])
            if verb == "get_by_uuid":
                ref = self._refs.get(args[0], "")
                self._known(kind, ref, "UUID_INVALID")
                return ref
            record = self._known(kind, args[0])
            if verb == "get_record":
                return dict(record)
            return record[verb.removeprefix("get_")]

    def _known(self, kind: str, ref: str, code: str = "HANDLE_INVALID") -> Record:
        record = self.tables[kind].get(ref)
        if record is None:
            raise XapiFailure(code, [kind, ref], f"{kind}.get", "lab")
        return record

    def _VM_snapshot(self, vm: str, name: str) -> str:
        record = self.tables["VM"][vm]
        snapshot = self._vm(name, NULL, is_a_snapshot=True, snapshot_of=vm)
        record["snapshots"].append(snapshot)
        for vbd in (self.tables["VBD"][ref] for ref in record["VBDs"]):
            live = self.tables["VDI"][vbd["VDI"]]
            disk = self._vdi(live["name_label"], live["SR"], snapshot_of=vbd["VDI"])
            live["snapshots"].append(disk)
            self._plug(snapshot, disk, int(vbd["userdevice"]))
        return snapshot

    def _VM_destroy(self, vm: str) -> str:
        record = self.tables["VM"].pop(vm)
        self.tables["VM"][record["snapshot_of"]]["snapshots"].remove(vm)
        for ref in record["VBDs"]:
            vbd = self.tables["VBD"].pop(ref)
            self.tables["VDI"][vbd["VDI"]]["VBDs"].remove(ref)
        return ""

    def _VDI_destroy(self, vdi: str) -> str:
        record = self.tables["VDI"].pop(vdi)
        self.tables["VDI"][record["snapshot_of"]]["snapshots"].remove(vdi)
        del self._refs[record["uuid"]]
        return ""

    def _VDI_data_destroy(self, vdi: str) -> str:
        self.tables["VDI"][vdi]["type"] = "cbt_metadata"
        return ""

    def _VDI_list_changed_blocks(self, _base: str, _disk: str) -> str:
        first = b"\x80" if self.size.changed else b"\x00"
        return base64.b64encode(first + bytes(BLOCKS // 8 - 1)).decode()

    def _VDI_get_nbd_info(self, vdi: str) -> list[Record]:
        return [{**info, "exportname": f"/{vdi}"} for info in self._nbd_info]

    def _VDI_get_other_config(self, vdi: str) -> Record:
        return dict(self.tables["VDI"][vdi]["other_config"])

    def _VDI_add_to_other_config(self, vdi: str, key: str, value: str) -> str:
        self.tables["VDI"][vdi]["other_config"][key] = value
        return ""

    def _message_get(self, *_: Any) -> Mapping[str, Any]:
        return {}


class MemorySession:
    """What the scheduler uses of `workers.xenapi.Session`."""

    pool = "lab"
    lost = False
    master_address = "10.0.0.1"

    def __init__(self, pool: MemoryPool, settings: PoolSettings) -> None:
        self._pool = pool
        self.settings = settings
        self.memory = PoolMemory()

    def call(self, method: str, *args: Any) -> Any:
        return self._pool.call(method, *args)

    def call_async(self, method: str, *args: Any, **_: Any) -> str:
        if method == "VM.snapshot":
            time.sleep(self._pool.size.snapshot)
        return str(self._pool.call(method, *args))

    def aside(self, method: str, *args: Any) -> Any:
        return self._pool.call(method, *args)

    def download(self, _path: str, *, limit: int, deadline: float) -> bytes:
        return b"metadata"


class MemorySessions:
    """What the scheduler uses of `workers.xenapi.Sessions`."""

    def __init__(self, pool: MemoryPool, settings: PoolSettings) -> None:
        self._pool = pool
        self._settings = settings

    @contextmanager
    def borrow(self, _pool: str) -> Iterator[MemorySession]:
        yield MemorySession(self._pool, self._settings)

    def close(self) -> None:
        pass
