"""A fresh pool's records, made from its specification."""

from __future__ import annotations

from dataclasses import dataclass

from infra.simulator import storage
from infra.simulator.database import Database
from infra.simulator.patterns import mix
from infra.simulator.schema import NULL
from infra.simulator.spec import DiskSpec, PoolSpec, UserSpec, VmSpec
from infra.simulator.state import State
from infra.simulator.vdi_content import Content

_FEATURES = ("SR_PROBE", "VDI_CREATE", "VDI_DELETE", "VDI_ATTACH", "VDI_DETACH", "VDI_RESIZE", "VDI_CLONE",
             "VDI_SNAPSHOT", "VDI_MIRROR", "VDI_GENERATE_CONFIG")  # fmt: skip
_GIB = 1 << 30


@dataclass(frozen=True)
class HostAddresses:
    management: str
    storage: str | None
    ipv6: str | None

    @property
    def listening(self) -> list[str]:
        """What xapi-nbd binds: every IPv4 address."""
        return [address for address in (self.management, self.storage) if address]


def addresses(spec: PoolSpec, number: int) -> HostAddresses:
    """Of host `number`, counted from 0."""
    return HostAddresses(
        f"127.0.1.{number + 1}",
        f"127.0.2.{number + 1}" if spec.second_network else None,
        f"fd00::{number + 1:x}/64" if spec.ipv6 else None,
    )


def build(spec: PoolSpec) -> State:
    """All records and contents; certificates and servers are not its business."""
    state = State(spec, Database(spec.seed))
    with state.lock:
        users = (UserSpec(spec.username, spec.password, "pool-admin"), *spec.users)
        state.users = {user.name: user for user in users}
        _storage_managers(state)
        networks = _networks(state)
        for number in range(spec.hosts):
            state.hosts.append(_host(state, number, networks))
        shared = _sr(state, f"{spec.name} shared storage", spec.sr_type, state.hosts, shared=True)
        state.pool = state.database.create(
            "pool",
            name_label=spec.name,
            master=state.hosts[0],
            default_SR=shared,
            restrictions={"restrict_cbt": "false" if spec.licensed_for_cbt else "true"},
        )
        for host in state.hosts if spec.local_srs else []:
            _sr(
                state,
                f"Local storage of {state.database.get('host', host)['name_label']}",
                "ext",
                [host],
                shared=False,
            )
        for vm in spec.vms:
            add_vm(state, vm)
    return state


def add_vm(state: State, spec: VmSpec) -> str:
    """A VM with its disks, running or not; returns its reference. Hold the lock."""
    database = state.database
    shared = database.get("pool", state.pool)["default_SR"]
    host = state.hosts[spec.host]
    vm = database.create(
        "VM",
        name_label=spec.name,
        tags=list(spec.tags),
        power_state="Running" if spec.running else "Halted",
        resident_on=host if spec.running else NULL,
        domid=1 if spec.running else -1,
        allowed_operations=["snapshot", "clean_shutdown", "hard_shutdown"]
        if spec.running
        else ["start", "snapshot"],
    )
    for number, disk in enumerate(spec.disks):
        sr = _local_sr(state, host) if disk.sr == "local" else shared
        vdi = _vdi(state, disk, sr, f"{spec.name} disk {number}")
        vbd = database.create(
            "VBD",
            VM=vm,
            VDI=vdi,
            userdevice=str(number),
            device=f"xvd{chr(97 + number)}",
            bootable=number == 0,
            currently_attached=spec.running,
        )
        if spec.running and database.get("VBD", vbd)["mode"] == "RW":
            storage.activate_for_writing(state, vdi)
    if spec.cd_drive:
        device = str(len(spec.disks))
        database.create("VBD", VM=vm, type="CD", mode="RO", empty=True, userdevice=device)
    return vm


def _local_sr(state: State, host: str) -> str:
    for pbd in state.database.find("PBD", host=host):
        sr = str(state.database.get("PBD", pbd)["SR"])
        if not state.database.get("SR", sr)["shared"]:
            return sr
    raise ValueError("a disk on local storage needs local_srs")


def _vdi(state: State, spec: DiskSpec, sr: str, name: str) -> str:
    if spec.size % state.spec.sector_size:
        raise ValueError(f"a disk of {spec.size} bytes: no multiple of {state.spec.sector_size}")
    seed = mix(state.spec.seed ^ mix(len(state.contents)))
    return storage.create_vdi(
        state,
        Content.new(spec.size, spec.fill, seed),
        name_label=spec.name or name,
        SR=sr,
        type=spec.type,
        sharable=spec.sharable,
        managed=spec.managed,
        on_boot=spec.on_boot,
        cbt_enabled=spec.cbt,
        sm_config={"type": "raw"} if spec.raw else {},
        allowed_operations=["snapshot", "clone", "copy", "update"],
    )


def _storage_managers(state: State) -> None:
    cbt = ("VDI_CONFIG_CBT",) if state.spec.sr_has_cbt else ()
    for kind in sorted({"ext", "nfs", "lvmoiscsi", state.spec.sr_type}):
        features = dict.fromkeys((*_FEATURES, *cbt), 1)
        state.database.create(
            "SM", name_label=kind, type=kind, features=features, capabilities=list(features)
        )
    state.database.create("SM", name_label="iso", type="iso", features={"VDI_ATTACH": 1, "VDI_DETACH": 1})


def _networks(state: State) -> list[str]:
    """The management network, and the storage network if there is one."""
    purpose = [state.spec.purpose] if state.spec.purpose else []
    names = ["management", "storage"] if state.spec.second_network else ["management"]
    return [
        state.database.create("network", name_label=name, bridge=f"xenbr{number}", purpose=purpose)
        for number, name in enumerate(names)
    ]


def _host(state: State, number: int, networks: list[str]) -> str:
    database, spec = state.database, state.spec
    own = addresses(spec, number)
    name = f"{spec.name}-host{number + 1}"
    metrics = database.create(
        "host_metrics", memory_total=64 * _GIB, memory_free=48 * _GIB, last_updated=state.now()
    )
    host = database.create(
        "host",
        name_label=name,
        hostname=name,
        address=own.management,
        metrics=metrics,
        software_version={"product_brand": "XenServer", "product_version": "8.4.0", "simulated": "true"},
    )
    for place, (network, address) in enumerate(zip(networks, own.listening, strict=True)):
        database.create(
            "PIF", device=f"eth{place}", network=network, host=host, IP=address, netmask="255.255.255.0",
            MAC=f"02:00:00:00:{place:02x}:{number + 1:02x}", management=place == 0,
            IPv6=[own.ipv6] if own.ipv6 and place == 0 else [],
            ipv6_configuration_mode="Static" if own.ipv6 and place == 0 else "None",
        )  # fmt: skip
    dom0 = database.create(
        "VM", name_label=f"Control domain on host: {name}", is_control_domain=True, power_state="Running",
        resident_on=host, domid=0, domain_type="pv",
    )  # fmt: skip
    database.update("host", host, control_domain=dom0)
    return host


def _sr(state: State, name: str, kind: str, hosts: list[str], *, shared: bool) -> str:
    sr = state.database.create("SR", name_label=name, type=kind, shared=shared, physical_size=4096 * _GIB)
    for host in hosts:
        state.database.create("PBD", host=host, SR=sr, device_config={"location": "simulated"})
    return sr
