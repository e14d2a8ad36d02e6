"""Which of a VM's drives a run backs up, and why not the others.

    drive -> a disk? -> its VDI known? -> excluded? -> can be snapshotted? -> with another VM already? -> yes

What is left out here is left out of the VM snapshot too: XAPI fails the snapshot of a whole VM because of one
disk that cannot be snapshotted.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase

from scheduler.policies.policy import Selector
from workers.xenapi import NULL_REF, Session, XapiRecord, record_or_none

EXCLUDE_TAG = "cbtfleet:exclude"
"""A VDI with this tag is left out of every run."""


@dataclass(frozen=True)
class Drive:
    """A VBD of the VM and what is behind it, as records. `vdi` is None when it holds nothing, or nothing that
    the pool knows; `ref` is the VDI's, "" when it holds nothing."""

    vbd: XapiRecord
    ref: str = ""
    vdi: XapiRecord | None = None
    sr: XapiRecord = field(default_factory=dict)
    can_snapshot: bool = True
    """Whether its storage can; True when the pool does not say."""
    holders: tuple[str, ...] = ()
    """The uuid of each other VM that has the VDI as a disk."""

    @property
    def place(self) -> str:
        return str(self.vbd.get("userdevice", ""))

    @property
    def disk(self) -> XapiRecord:
        """The VDI's record, of a drive that was chosen: it has one."""
        assert self.vdi is not None
        return self.vdi


@dataclass(frozen=True)
class Skipped:
    """A drive that is left out. `ref` is the VDI to leave out of the VM snapshot, "" when it makes no
    difference there; `vdi` its uuid, None when there is no VDI."""

    ref: str
    vdi: str | None
    name: str
    reason: str
    elsewhere: bool = False
    """The run backs the disk up with another VM."""


NO_DISK = Skipped("", None, "", "the VM has no disk")


def read_drives(session: Session, vm: XapiRecord) -> list[Drive]:
    """All drives of a VM, by their place. Raises XapiError."""
    drives = []
    managers = session.aside("SM.get_all_records") or {}
    storage: dict[str, XapiRecord] = {}
    for vbd_ref in vm["VBDs"]:
        vbd = record_or_none(session, "VBD", vbd_ref)
        if vbd is None:
            continue  # unplugged for good meanwhile
        if vbd["type"] != "Disk" or vbd.get("empty") or vbd["VDI"] == NULL_REF:
            held = vbd["VDI"] if vbd["VDI"] != NULL_REF and not vbd.get("empty") else ""
            drives.append(Drive(vbd, held, record_or_none(session, "VDI", held) if held else None))
            continue
        vdi = record_or_none(session, "VDI", vbd["VDI"])
        if vdi is None:
            drives.append(Drive(vbd, vbd["VDI"]))
            continue
        if vdi["SR"] not in storage:
            storage[vdi["SR"]] = record_or_none(session, "SR", vdi["SR"]) or {}
        sr = storage[vdi["SR"]]
        holders = _other_holders(session, vdi, vm["uuid"])
        drives.append(Drive(vbd, vbd["VDI"], vdi, sr, _can_snapshot(sr, managers.values()), holders))
    return sorted(drives, key=lambda drive: (len(drive.place), drive.place))


def choose_drives(
    drives: Sequence[Drive], exclude: Selector, vm: str, run_vms: Mapping[str, str]
) -> tuple[list[Drive], list[Skipped]]:
    """The drives to back up, and the others with their reasons. A pure function.

    `vm` is the uuid of the drives' VM, `run_vms` has the name of each VM of the run by uuid: of several that
    have one disk, the first by name backs it up.
    """
    chosen: list[Drive] = []
    skipped: list[Skipped] = []
    for drive in drives:
        earlier = next((other for other in chosen if other.ref == drive.ref), None)
        if earlier is not None:
            reason = f"it is attached twice, and backed up as drive {earlier.place}"
            skipped.append(replace(_skipped(drive, reason), ref=""))
        elif reason := _why_not(drive, exclude):
            skipped.append(_skipped(drive, reason))
        elif reason := _with_whom(drive, vm, run_vms):
            skipped.append(replace(_skipped(drive, reason), elsewhere=True))
        else:
            chosen.append(drive)
    return chosen, skipped or ([] if drives else [NO_DISK])


def _skipped(drive: Drive, reason: str) -> Skipped:
    name = drive.vdi["name_label"] if drive.vdi is not None else f"drive {drive.place}"
    ref = drive.ref if drive.vbd["type"] == "Disk" else ""
    return Skipped(ref, None if drive.vdi is None else drive.vdi["uuid"], name, reason)


def _why_not(drive: Drive, exclude: Selector) -> str:
    kind, vdi = str(drive.vbd["type"]), drive.vdi
    if kind != "Disk":
        return f"an empty {kind} drive" if not drive.ref else f"a {kind} drive"
    if not drive.ref:
        return "an empty drive"
    if vdi is None:
        return "the pool no longer knows its disk"
    if why := _excluded(vdi, exclude):
        return why
    if not vdi.get("managed", True):
        return "XAPI does not manage this disk (managed = false)"
    if vdi.get("missing"):
        return "its storage repository no longer has it (missing = true); scan the storage repository"
    if vdi.get("sharable"):
        return "several VMs may write to it (sharable = true), so it cannot be snapshotted"
    if vdi.get("on_boot") == "reset":
        return "it is reset at every boot (on_boot = reset), so it cannot be snapshotted"
    if vdi.get("type") == "cbt_metadata":
        return "it is the metadata of a snapshot and has no data"
    if not drive.can_snapshot:
        return f"its storage (type {drive.sr.get('type')}) takes no snapshots"
    return ""


def _excluded(vdi: XapiRecord, exclude: Selector) -> str:
    tags = vdi.get("tags", ())
    if tag := next((tag for tag in tags if tag == EXCLUDE_TAG or tag in exclude.tags), None):
        return f"excluded by its tag {tag}"
    if pattern := next((each for each in exclude.names if fnmatchcase(vdi["name_label"], each)), None):
        return f"excluded by the policy, by its name ({pattern})"
    return "excluded by the policy, by its uuid" if vdi["uuid"] in exclude.uuids else ""


def _with_whom(drive: Drive, vm: str, run_vms: Mapping[str, str]) -> str:
    holders = [(run_vms[uuid], uuid) for uuid in (vm, *drive.holders) if uuid in run_vms]
    name, first = min(holders, default=("", vm))
    return "" if first == vm else f'VM "{name}" has it too, and it is backed up with that'


def _other_holders(session: Session, vdi: XapiRecord, own: str) -> tuple[str, ...]:
    found = set()
    vbds = vdi.get("VBDs", ())
    for vbd_ref in vbds if len(vbds) > 1 else ():
        vbd = record_or_none(session, "VBD", vbd_ref)
        vm = record_or_none(session, "VM", vbd["VM"]) if vbd is not None and vbd["type"] == "Disk" else None
        if vm is not None and vm["uuid"] != own:
            found.add(str(vm["uuid"]))
    return tuple(sorted(found))


def _can_snapshot(sr: XapiRecord, managers: Collection[XapiRecord]) -> bool:
    features: set[str] = set()
    for manager in managers:
        if manager.get("type") == sr.get("type"):
            features.update(manager.get("features", ()), manager.get("capabilities", ()))
    return not features or "VDI_SNAPSHOT" in features
