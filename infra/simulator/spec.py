"""What a simulated pool is made of, and how long its parts take: plain values, all with defaults."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Fill = Literal["mixed", "zero", "text", "random"]
VHD_ROUNDING = 2 << 20
"""`VDI.create` and `VDI.resize` round up to this on VHD storage."""


@dataclass(frozen=True)
class DiskSpec:
    """One disk. `size` is taken as it is, also when it is no multiple of 64 KiB or 2 MiB."""

    size: int = 64 << 20
    name: str = ""
    fill: Fill = "mixed"
    cbt: bool = False
    sr: Literal["shared", "local"] = "shared"
    type: str = "user"
    raw: bool = False
    """Raw storage: CBT cannot be enabled."""
    sharable: bool = False
    managed: bool = True
    on_boot: Literal["persist", "reset"] = "persist"


@dataclass(frozen=True)
class VmSpec:
    name: str
    disks: tuple[DiskSpec, ...] = (DiskSpec(),)
    tags: tuple[str, ...] = ()
    running: bool = True
    cd_drive: bool = False
    """An empty CD drive, as most VMs have."""
    host: int = 0
    """Which host it runs on."""


@dataclass(frozen=True)
class UserSpec:
    """A user besides root, with one of XAPI's roles."""

    name: str
    password: str = field(repr=False)
    role: str = "read-only"


@dataclass(frozen=True)
class Timing:
    """Seconds. The defaults are those of the real thing, except the ones said to be guesses."""

    login_failure_delay: float = 5.0
    plug_delay: float = 0.0
    """From EXPORT_NAME to its answer: VBD.create and plug. (A guess; real pools: a fraction of a second.)"""
    slot_release_delay: float = 0.2
    """From the end of an NBD connection until its VBD is gone and its slot is free. (A guess.)"""
    operation_delay: float = 0.0
    """How long a storage operation holds its SR. (A guess; real pools: a second or more.)"""
    data_destroy_wait: float = 4.0
    in_progress_retry: float = 7200.0
    """How long xapi itself retries OTHER_OPERATION_IN_PROGRESS before the caller sees it."""
    xapi_retry: float = 300.0
    """How long xapi-nbd retries when its XAPI does not answer, before the client sees an EOF."""
    housekeeping: float = 30.0
    firewall_delay: float = 5.0


@dataclass(frozen=True)
class PoolSpec:
    """A pool: host `n` (from 1) listens on 127.0.1.n, and on 127.0.2.n with `second_network`."""

    name: str = "lab"
    hosts: int = 2
    vms: tuple[VmSpec, ...] = ()
    seed: int = 1
    """Uuids and contents follow from it."""
    username: str = "root"
    password: str = field(default="correct horse", repr=False)
    users: tuple[UserSpec, ...] = ()
    port: int = 0
    """XenAPI's, the same on every host; 0: any that is free on all of them. Likewise `nbd_port`."""
    nbd_port: int = 0
    control_port: int = 0
    purpose: Literal["nbd", "insecure_nbd"] | None = "nbd"
    second_network: bool = True
    ipv6: bool = True
    """An `fd00::n/64` address beside the IPv4 one, which nobody listens on (xapi-nbd binds IPv4 only)."""
    certificates: Literal["self-signed", "ca"] = "self-signed"
    sr_type: str = "nfs"
    sr_has_cbt: bool = True
    licensed_for_cbt: bool = True
    local_srs: bool = False
    size_rounding: int = VHD_ROUNDING
    """What VDI.create and VDI.resize round up to; 1: nothing."""
    scan_after_data_destroy: bool = True
    """XAPI scans by itself now and then; afterwards a cbt_metadata VDI's virtual_size means nothing."""
    connection_limit: int = 16
    sector_size: int = 512
    firewall: Literal["none", "iptables"] = "none"
    """"iptables": addresses of networks without an NBD purpose refuse, also established connections."""
    timing: Timing = Timing()


def plain_pool(
    *, hosts: int = 2, vms: int = 2, disks: int = 2, disk_size: int = 64 << 20, **more: object
) -> PoolSpec:
    """`vms` VMs named vm1, vm2, … with `disks` disks each, spread over the hosts, all tagged "backup"."""
    machines = tuple(
        VmSpec(f"vm{number + 1}", (DiskSpec(disk_size),) * disks, ("backup",), host=number % hosts)
        for number in range(vms)
    )
    return PoolSpec(hosts=hosts, vms=machines, **more)  # type: ignore[arg-type]
