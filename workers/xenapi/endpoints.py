"""Where a disk can be read over NBD: the addresses of `VDI.get_nbd_info`, each with the host it belongs to.

XAPI names addresses, not hosts, but the 16 connections are counted by host; so every address is mapped to its
host here, through the pool's PIFs. Addresses come in the order of XAPI's database, which means nothing.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from workers.xenapi.networks import (
    INSECURE,
    NbdHost,
    NbdNetwork,
    PoolMap,
    PoolNbd,
    all_records,
    bare_address,
    explain_pool_nbd,
    is_ipv6,
    is_link_local,
    mixed_text,
    no_purpose_text,
)
from workers.xenapi.session import BadAnswer, Session, XapiError, XapiFailure, warn_once

__all__ = [
    "Endpoint",
    "NbdHost",
    "NbdNetwork",
    "NotExportable",
    "PoolNbd",
    "explain_pool_nbd",
    "nbd_endpoints",
]

log = logging.getLogger(__name__)

_HOST_AWAY = {"HOST_OFFLINE", "HOST_NOT_LIVE", "HOST_BROKEN", "CANNOT_CONTACT_HOST"}


class NotExportable(XapiError):
    """A disk that cannot be read over NBD as the pool stands; `temporary` when it may heal by itself."""

    def __init__(self, text: str, temporary: bool = False) -> None:
        super().__init__(text)
        self.temporary = temporary


@dataclass(frozen=True)
class Endpoint:
    """One way to read one disk. `host` is a uuid, `certificate_pem` and `subject` are as XAPI gave them.

    Where several hosts have one address, as behind forwarded ports, nobody can say whose a port is; `host`
    then stands for the server at that port. `export_name` is a live credential. `tls` is False only where
    XAPI says insecure_nbd.
    """

    host: str
    host_name: str
    address: str
    port: int
    export_name: str = field(repr=False)
    certificate_pem: str = field(repr=False)
    subject: str
    tls: bool


def nbd_endpoints(session: Session, vdi_ref: str, vdi_name: str) -> list[Endpoint]:
    """Every way to read the disk, sorted by host name and address.

    IPv6 only where there is no IPv4 at all: XenServer lists such addresses, but does not listen on them.

    Raises NotExportable that says which condition fails and leaves naming the disk to the caller, or an
    XapiError.
    """
    infos = _nbd_info(session, vdi_ref, vdi_name)
    pool = PoolMap.load(session)
    if not infos:
        raise _why_not(session, pool, vdi_ref)
    if pool.mixed:
        raise NotExportable(mixed_text(session.pool))
    found: dict[tuple[str, str], Endpoint] = {}
    for info in infos:
        endpoint = _endpoint(session, pool, info, vdi_name)
        if endpoint is not None:
            found.setdefault((endpoint.address, endpoint.host), endpoint)
    if not found:
        addresses = ", ".join(sorted({bare_address(str(info["address"])) for info in infos}))
        raise NotExportable(
            f"none of its NBD addresses ({addresses}) belongs to a host of pool "
            f"{session.pool}; check the addresses of the hosts' PIFs"
        )
    usable = [each for each in found.values() if not is_ipv6(each.address)] or list(found.values())
    return sorted(usable, key=lambda e: (e.host_name, e.host, e.address, e.port))


def _nbd_info(session: Session, vdi_ref: str, vdi_name: str) -> list[dict[str, Any]]:
    try:
        infos = session.call("VDI.get_nbd_info", vdi_ref)
    except XapiFailure as failure:
        if failure.code == "VDI_INCOMPATIBLE_TYPE":
            raise NotExportable(
                f"pool {session.pool} does not export a disk of this type over NBD "
                "(a metadata-only snapshot has no data)"
            ) from failure
        if failure.code in _HOST_AWAY:
            raise NotExportable(
                f"pool {session.pool} lists no addresses: {_away(session, failure)} is "
                "offline with its storage still recorded as attached; start it, or remove it from the pool",
                temporary=True,
            ) from failure
        raise
    needed = {"address", "port", "exportname", "cert", "subject"}
    whole = isinstance(infos, list) and all(isinstance(info, dict) and needed <= set(info) for info in infos)
    if not whole:
        raise BadAnswer(f"pool {session.pool}: VDI.get_nbd_info of disk {vdi_name} is no list of addresses")
    return list(infos)


def _away(session: Session, failure: XapiFailure) -> str:
    try:
        return f"host {session.call('host.get_name_label', failure.params[0])}"
    except (XapiFailure, IndexError):
        return "a host"


def _endpoint(session: Session, pool: PoolMap, info: Mapping[str, Any], vdi_name: str) -> Endpoint | None:
    address = bare_address(info["address"])
    if is_link_local(address):
        return None
    text = str(info["port"])
    port = int(text) if text.isdecimal() else 0
    if not 0 < port < 65536:
        raise BadAnswer(f"pool {session.pool}: disk {vdi_name} has an NBD port that is none")
    owner = pool.owner(address, info["subject"])
    if owner is not None:
        ref, purposes = owner
        host, name = pool.hosts[ref]["uuid"], pool.hosts[ref]["name_label"]
    elif pool.only_together_at(address):
        # Counting connections by server is as good as by host, as long as no host has two servers.
        name, purposes = f"{address}:{port}", pool.all_purposes
        host = str(uuid.uuid5(uuid.NAMESPACE_URL, f"nbd://{name}"))
    else:
        log.warning("pool %s: NBD address %s belongs to no known host; left out", session.pool, address)
        return None
    tls = (purposes or pool.all_purposes) != {INSECURE}
    if not tls:
        warn_once(
            f"pool {session.pool}: the network of {name} has the purpose insecure_nbd: disks are read "
            "without encryption and without knowing who answers; give it the purpose nbd instead"
        )
    return Endpoint(
        host=host,
        host_name=name,
        address=address,
        port=port,
        export_name=info["exportname"],
        certificate_pem=info["cert"],
        subject=info["subject"],
        tls=tls,
    )


def _why_not(session: Session, pool: PoolMap, vdi_ref: str) -> NotExportable:
    """XenServer's three conditions for an NBD export, in the order in which people set them up."""
    storage = session.call("VDI.get_SR", vdi_ref)
    plugged = {
        pbd["host"]
        for pbd in all_records(session, "PBD").values()
        if pbd["SR"] == storage and pbd["currently_attached"]
    }
    plugged &= pool.live_hosts(session)
    what = "it cannot be read over NBD"
    if not plugged:
        name = session.call("SR.get_name_label", storage)
        return NotExportable(f'{what}: its storage "{name}" has no plugged PBD on a live host; plug it in')
    if not pool.all_purposes:
        return NotExportable(f"{what}: {no_purpose_text(session.pool)}")
    if pool.mixed:
        return NotExportable(f"{what}: {mixed_text(session.pool)}")
    if not any(pool.nbd_addresses(host) for host in plugged):
        names = ", ".join(sorted(pool.hosts[host]["name_label"] for host in plugged))
        return NotExportable(
            f"{what}: no host that has its storage ({names}) has a plugged PIF with an IP address on a "
            "network for NBD; plug the PIF in and give it an address, or add the purpose to another network"
        )
    return NotExportable(f"{what}: XAPI gave no address, though all conditions hold now", temporary=True)
