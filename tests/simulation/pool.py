"""A pool in memory: the records and calls that snapshots need, as docs/xenserver.md says that they behave.

Real pools are met elsewhere (tests/contract, infra/simulator); this one is small enough for thousands of
courses a minute, and may be asked between any two calls what it has.

    VM.snapshot      disks one after another, their other_config copied; the guest has written meanwhile
    VM.destroy       the record and its VBDs; the disks stay
    VDI.destroy      VDI_IN_USE while it is plugged in; VBDs that are not plugged in go with it
    VDI.data_destroy VDI_IN_USE while it has any VBD
"""

from __future__ import annotations

import base64
import random
import uuid
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from tests.simulation.change_log import ChangeLog
from tests.simulation.pool_records import BLOCKS, Content, Vbd, Vdi, Vm
from workers.xenapi import XapiFailure


class Pool:
    def __init__(self, seed: int = 0) -> None:
        self.vms: dict[str, Vm] = {}
        self.vdis: dict[str, Vdi] = {}
        self.vbds: dict[str, Vbd] = {}
        self.contents: dict[str, Content] = {}
        """What each disk snapshot (uuid) held when it was made, also after it is gone."""
        self.destroyed: list[tuple[str, str, str, str]] = []
        """Kind, uuid, who had made it, who destroyed it."""
        self.pause = 1
        """Seconds from one VM snapshot to the next, by the pool's clock."""
        self._logs: dict[str, ChangeLog] = {}
        self._time = 0
        self._names = random.Random(seed)
        self._made = 0
        self._called: dict[str, str] = {}

    def copy(self) -> Pool:
        other = Pool()
        other.vms = {ref: replace(vm) for ref, vm in self.vms.items()}
        other.vdis = {ref: replace(vdi, other_config={**vdi.other_config}) for ref, vdi in self.vdis.items()}
        other.vbds = {ref: replace(vbd) for ref, vbd in self.vbds.items()}
        other.contents = {**self.contents}
        other.pause = self.pause
        other._logs = {disk: log.copy() for disk, log in self._logs.items()}
        other._time, other._made = self._time, self._made
        other._names.setstate(self._names.getstate())
        other._called = {**self._called}
        return other

    # what the stage and the judge do, without XenAPI

    def add_vm(self, name: str, disks: int, by: str = "person", *, control_domain: bool = False) -> Vm:
        vm = Vm(*self._name("VM"), name, by, control_domain=control_domain)
        self.vms[vm.ref] = vm
        for number in range(disks):
            vdi = Vdi(*self._name("VDI"), f"{name}-{number}", by, tuple(range(1, BLOCKS + 1)))
            self.vdis[vdi.ref] = vdi
            self._logs[vdi.ref] = ChangeLog()
            self.attach(vm, vdi, str(number), by, plugged=True)
        return vm

    def attach(self, vm: Vm, vdi: Vdi, userdevice: str, by: str, *, plugged: bool = False) -> Vbd:
        vbd = Vbd(*self._name("VBD"), vm.ref, vdi.ref, userdevice, by, attached=plugged)
        self.vbds[vbd.ref] = vbd
        return vbd

    def disks_of(self, vm: Vm) -> list[Vdi]:
        return [self.vdis[vbd.vdi] for vbd in self.vbds.values() if vbd.vm == vm.ref]

    def snapshots(self) -> list[Vdi]:
        return [vdi for vdi in self.vdis.values() if vdi.is_a_snapshot]

    def by_uuid(self, uuid: str) -> Vdi | None:
        return next((vdi for vdi in self.vdis.values() if vdi.uuid == uuid), None)

    def vm_named(self, name: str) -> Vm:
        return next(vm for vm in self.vms.values() if vm.name == name and not vm.is_a_snapshot)

    def dom0(self) -> Vm:
        return next(vm for vm in self.vms.values() if vm.control_domain)

    def made_by(self, ref: str) -> str:
        found = self.vms.get(ref) or self.vdis.get(ref) or self.vbds.get(ref)
        return found.made_by if found else ""

    def name_of(self, ref: str) -> str:
        """Kind and uuid of what is or was there, for saying which calls concern the same object."""
        return self._called.get(ref, ref)

    def state(self) -> dict[str, Any]:
        """All that the records say, by name. Not of control domains, which are never changed but in what they
        have plugged in."""
        records = [(ref, self._record("VM", ref)) for ref, vm in self.vms.items() if not vm.control_domain]
        records += [(ref, self._record("VDI", ref)) for ref in self.vdis]
        records += [(ref, self._record("VBD", ref)) for ref in self.vbds]
        return {self.name_of(ref): record for ref, record in records}

    # XenAPI

    def do(self, by: str, method: str, *args: Any) -> Any:
        kind, _, name = method.partition(".")
        table = {"VM": self.vms, "VDI": self.vdis, "VBD": self.vbds}.get(kind)
        if kind == "SR":
            return {"uuid": _SR_UUID}
        if table is None:
            raise XapiFailure("MESSAGE_METHOD_UNKNOWN", [method], method, "lab")
        if name == "get_all":
            return list(table)
        if name == "get_by_uuid":
            return next((ref for ref, each in table.items() if each.uuid == args[0]), None) or _gone(
                method, "UUID_INVALID", kind, args[0]
            )
        if name == "get_all_records_where":
            return self._where(kind, table, args[0])
        if args[0] not in table:
            _gone(method, "HANDLE_INVALID", kind, args[0])
        if name == "get_record":
            return self._record(kind, args[0])
        call: Callable[..., Any] = getattr(self, f"_{kind.lower()}_{name}")
        return call(by, *args)

    def _where(self, kind: str, table: Any, expression: str) -> dict[str, Any]:
        _, name, _, value, _ = expression.split('"')
        records = {ref: self._record(kind, ref) for ref in table}
        name = name.replace("__", "_")
        wanted: Any = value == "true" if value in ("true", "false") else value
        return {ref: record for ref, record in records.items() if record[name] == wanted}

    def _record(self, kind: str, ref: str) -> dict[str, Any]:
        if kind == "VM":
            return self.vms[ref].record(self.vms.values(), self.vbds.values())
        if kind == "VDI":
            return self.vdis[ref].record(self.vdis.values(), self.vbds.values())
        return self.vbds[ref].record()

    def _vm_snapshot(self, by: str, vm: str, name: str, without: list[str] | None = None) -> str:
        self._time += self.pause
        time = f"{datetime(2026, 1, 1) + timedelta(seconds=self._time):%Y%m%dT%H:%M:%SZ}"
        copy = Vm(*self._name("VM"), name, by, snapshot_of=vm)
        self.vms[copy.ref] = copy
        for vbd in [each for each in self.vbds.values() if each.vm == vm and each.vdi not in (without or ())]:
            live = self.vdis[vbd.vdi]
            self._guest_writes(live)
            vdi = Vdi(
                *self._name("VDI"),
                live.name,
                by,
                live.content,
                snapshot_of=live.ref,
                cbt_enabled=live.cbt_enabled,
                other_config={**live.other_config},
                time=time,
            )
            self.vdis[vdi.ref] = vdi
            self.contents[vdi.uuid] = vdi.content
            if live.cbt_enabled:
                self._logs[live.ref].snapshot(vdi.uuid)
            self.attach(copy, vdi, vbd.userdevice, by)
        return copy.ref

    def _guest_writes(self, live: Vdi) -> None:
        """To one block, or zeros to it: two snapshots are never the same."""
        block = self._made % BLOCKS
        value = 0 if live.content[block] and self._made % 5 == 0 else self._made + BLOCKS
        live.content = (*live.content[:block], value, *live.content[block + 1 :])
        self._logs[live.ref].write(block)

    def _vm_destroy(self, by: str, vm: str) -> None:
        for vbd in [each for each in self.vbds.values() if each.vm == vm]:
            del self.vbds[vbd.ref]
        gone = self.vms.pop(vm)
        self.destroyed.append(("VM", gone.uuid, gone.made_by, by))

    def _vdi_get_uuid(self, by: str, vdi: str) -> str:
        return self.vdis[vdi].uuid

    def _vdi_get_other_config(self, by: str, vdi: str) -> dict[str, str]:
        return {**self.vdis[vdi].other_config}

    def _vdi_add_to_other_config(self, by: str, vdi: str, key: str, value: str) -> None:
        if key in self.vdis[vdi].other_config:
            raise XapiFailure("MAP_DUPLICATE_KEY", ["VDI", "other_config", vdi, key], "add", "lab")
        self.vdis[vdi].other_config[key] = value

    def _vdi_remove_from_other_config(self, by: str, vdi: str, key: str) -> None:
        self.vdis[vdi].other_config.pop(key, None)

    def _vdi_list_changed_blocks(self, by: str, first: str, last: str) -> str:
        for log in self._logs.values():
            blocks = log.changed(self.vdis[first].uuid, self.vdis[last].uuid)
            if blocks is not None:
                bits = bytearray((BLOCKS + 7) // 8)
                for block in blocks:
                    bits[block // 8] |= 0x80 >> block % 8
                return base64.b64encode(bits).decode()
        raise XapiFailure("SR_BACKEND_FAILURE_460", ["", "unrelated", ""], "VDI.list_changed_blocks", "lab")

    def _vdi_destroy(self, by: str, vdi: str) -> None:
        self._check_free(vdi, "destroy")
        for vbd in [each for each in self.vbds.values() if each.vdi == vdi]:
            self.destroyed.append(("VBD", vbd.uuid, vbd.made_by, by))
            del self.vbds[vbd.ref]
        gone = self.vdis.pop(vdi)
        self.destroyed.append(("VDI", gone.uuid, gone.made_by, by))
        for log in self._logs.values():
            log.destroy(gone.uuid, metadata_only=gone.type == "cbt_metadata")

    def _vdi_data_destroy(self, by: str, vdi: str) -> None:
        if self.vdis[vdi].type == "cbt_metadata":
            return
        if not self.vdis[vdi].cbt_enabled:
            raise XapiFailure("VDI_NO_CBT_METADATA", [vdi], "VDI.data_destroy", "lab")
        self._check_free(vdi, "data_destroy")
        if any(vbd.vdi == vdi for vbd in self.vbds.values()):
            raise XapiFailure("VDI_IN_USE", [vdi, "data_destroy"], "VDI.data_destroy", "lab")
        gone = self.vdis[vdi]
        gone.type = "cbt_metadata"
        self.destroyed.append(("data", gone.uuid, gone.made_by, by))

    def _check_free(self, vdi: str, operation: str) -> None:
        for vbd in [each for each in self.vbds.values() if each.vdi == vdi and each.attached]:
            if vbd.opened or vbd.rejects or not self.vms[vbd.vm].control_domain:
                vbd.rejects = max(vbd.rejects - 1, 0)
                raise XapiFailure("VDI_IN_USE", [vdi, operation], f"VDI.{operation}", "lab")
            del self.vbds[vbd.ref]

    def _vbd_unplug(self, by: str, vbd: str) -> None:
        if self.vbds[vbd].opened:
            raise XapiFailure("DEVICE_DETACH_REJECTED", ["VBD", vbd, "in use"], "VBD.unplug", "lab")
        self.vbds[vbd].attached = False

    def _vbd_destroy(self, by: str, vbd: str) -> None:
        gone = self.vbds.pop(vbd)
        self.destroyed.append(("VBD", gone.uuid, gone.made_by, by))

    def _name(self, kind: str) -> tuple[str, str]:
        self._made += 1
        ref = f"OpaqueRef:{kind}-{self._made}"
        name = str(uuid.UUID(int=self._names.getrandbits(128), version=4))
        self._called[ref] = f"{kind}:{name}"
        return ref, name


_SR_UUID = str(uuid.UUID(int=random.Random("SR").getrandbits(128), version=4))


def _gone(method: str, code: str, *params: str) -> Any:
    raise XapiFailure(code, [*params], method, "lab")
