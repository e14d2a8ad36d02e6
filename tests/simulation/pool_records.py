"""What an in-memory pool is made of, and as which records XenAPI shows it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from workers.xenapi import NULL_REF

BLOCKS = 3
SIZE = BLOCKS << 16

Content = tuple[int, ...]
"""Of a disk: what was last written to each of its blocks, a number; 0 is a block of zeros."""


@dataclass
class Vm:
    ref: str
    uuid: str
    name: str
    made_by: str
    snapshot_of: str = NULL_REF
    control_domain: bool = False

    @property
    def is_a_snapshot(self) -> bool:
        return self.snapshot_of != NULL_REF

    def record(self, vms: Iterable[Vm], vbds: Iterable[Vbd]) -> dict[str, Any]:
        return {
            "uuid": self.uuid,
            "name_label": self.name,
            "is_a_snapshot": self.is_a_snapshot,
            "is_control_domain": self.control_domain,
            "snapshot_of": self.snapshot_of,
            "snapshots": [each.ref for each in vms if each.snapshot_of == self.ref],
            "VBDs": [vbd.ref for vbd in vbds if vbd.vm == self.ref],
            "power_state": "Running",
        }


@dataclass
class Vdi:
    ref: str
    uuid: str
    name: str
    made_by: str
    content: Content
    snapshot_of: str = NULL_REF
    type: str = "user"
    cbt_enabled: bool = True
    other_config: dict[str, str] = field(default_factory=dict)
    time: str = ""

    @property
    def is_a_snapshot(self) -> bool:
        return self.snapshot_of != NULL_REF

    @property
    def has_data(self) -> bool:
        return self.type != "cbt_metadata"

    def record(self, vdis: Iterable[Vdi], vbds: Iterable[Vbd]) -> dict[str, Any]:
        return {
            "uuid": self.uuid,
            "name_label": self.name,
            "is_a_snapshot": self.is_a_snapshot,
            "snapshot_of": self.snapshot_of,
            "snapshots": [each.ref for each in vdis if each.snapshot_of == self.ref],
            "VBDs": [vbd.ref for vbd in vbds if vbd.vdi == self.ref],
            "type": self.type,
            "cbt_enabled": self.cbt_enabled,
            "other_config": {**self.other_config},
            "snapshot_time": self.time,
            "virtual_size": str(SIZE),
            "SR": "OpaqueRef:SR",
        }


@dataclass
class Vbd:
    ref: str
    uuid: str
    vm: str
    vdi: str
    userdevice: str
    made_by: str
    attached: bool = False
    opened: bool = False
    """A reader has it open: nobody can unplug it."""
    rejects: int = 0
    """How often the host still refuses, after the reader has closed it."""

    def record(self) -> dict[str, Any]:
        return {
            "uuid": self.uuid,
            "VM": self.vm,
            "VDI": self.vdi,
            "type": "Disk",
            "empty": False,
            "userdevice": self.userdevice,
            "currently_attached": self.attached,
        }
