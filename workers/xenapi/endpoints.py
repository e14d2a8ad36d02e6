"""Where a disk can be read over NBD: the addresses of `VDI.get_nbd_info`, each with the host it belongs to.

XAPI names addresses, not hosts, but the 16 connections are counted by host; so every address is mapped to its
host here, through the pool's PIFs. Addresses come in the order of XAPI's database, which means nothing.
"""

from __future__ import annotations

import logging
import time
import uuid
from dataclasses import dataclass, field

from workers.xenapi.connection import warn_once
from workers.xenapi.errors import BadAnswer, CallTimedOut, XapiError, XapiFailure
from workers.xenapi.live_hosts import HOST_AWAY, ways_to_live_hosts
from workers.xenapi.networks import (
    INSECURE,
    PoolMap,
    bare_address,
    is_ipv6,
    is_link_local,
    mixed_text,
    no_purpose_text,
    plugged_hosts,
)
from workers.xenapi.records import XapiRecord
from workers.xenapi.session import Session

log = logging.getLogger(__name__)

PROPAGATION_SECONDS = 15.0
"""XAPI's documentation says that a change of a network's purpose takes 10 s or more to take effect."""
_LOOK_AGAIN_SECONDS = 2.0


class NotExportable(XapiError):
    """A disk that cannot be read over NBD as the pool stands; `temporary` when it may heal by itself."""

    def __init__(self, text: str, temporary: bool = False) -> None:
        super().__init__(text)
        self.temporary = temporary


class _NotYet(NotExportable):
    """What may come right by itself within seconds, when somebody is just changing it."""


@dataclass(frozen=True)
class Endpoint:
    """One way to read one disk. `host` is a uuid, `certificate_pem` and `subject` are as XAPI gave them.

    Where several hosts have one address, as behind forwarded ports, nobody can say whose a port is; `host`
    then stands for the server at that port. `export_name` is a live credential. `tls` is False only where
    XAPI says insecure_nbd and the pool's configuration allows it.
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

    Left out while there are others: hosts that are offline or disabled, and IPv6, which XenServer lists but
    does not listen on. When XAPI lists nothing because of one dead host, the ways to the live ones are worked
    out (docs/adr/0032-ways-around-a-dead-host.md). When NBD seems to be off, it is waited for as long as a
    change of purpose takes to get about.

    The export names are those of this very session, which has to live until a server has answered to one.

    Raises NotExportable that says which condition fails and leaves naming the disk to the caller, or an
    XapiError.
    """
    until = time.monotonic() + (0.0 if session.memory.waited_for_nbd else PROPAGATION_SECONDS)
    while True:
        try:
            found = _look(session, vdi_ref, vdi_name)
        except _NotYet:
            if time.monotonic() >= until:
                session.memory.waited_for_nbd = True
                raise
        else:
            session.memory.waited_for_nbd = False
            return found
        time.sleep(min(_LOOK_AGAIN_SECONDS, max(until - time.monotonic(), 0.0)))


def _look(session: Session, vdi_ref: str, vdi_name: str) -> list[Endpoint]:
    pool = PoolMap.load(session)
    infos = _nbd_info(session, pool, vdi_ref, vdi_name)
    if not infos:
        raise _why_not(session, pool, vdi_ref)
    if pool.mixed:
        raise _NotYet(mixed_text(session.pool))
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
    served = [each for each in found.values() if not is_ipv6(each.address)] or list(found.values())
    return sorted(
        _on_good_hosts(session, pool, served), key=lambda e: (e.host_name, e.host, e.address, e.port)
    )


def _on_good_hosts(session: Session, pool: PoolMap, found: list[Endpoint]) -> list[Endpoint]:
    """Without hosts that are away or about to be, as long as any other is left."""
    left_out = {
        str(record["uuid"]): why
        for ref, record in pool.hosts.items()
        if (why := pool.why_left_out(ref)) is not None
    }
    good = [each for each in found if each.host not in left_out]
    for each in found if good else ():
        if each.host in left_out:
            log.info(
                "pool %s: host %s is not read from: %s", session.pool, each.host_name, left_out[each.host]
            )
    return good or found


def _nbd_info(session: Session, pool: PoolMap, vdi_ref: str, vdi_name: str) -> list[XapiRecord]:
    try:
        infos = session.call("VDI.get_nbd_info", vdi_ref)
    except XapiFailure as failure:
        if failure.code == "VDI_INCOMPATIBLE_TYPE":
            raise _no_data(session) from failure
        if failure.code in HOST_AWAY:
            return _around(session, pool, vdi_ref, failure)
        raise
    except CallTimedOut as failure:  # XAPI asks each host for its certificate, and one that just died is slow
        return _around(session, pool, vdi_ref, failure)
    needed = {"address", "port", "exportname", "cert", "subject"}
    whole = isinstance(infos, list) and all(isinstance(info, dict) and needed <= set(info) for info in infos)
    if not whole:
        raise BadAnswer(f"pool {session.pool}: VDI.get_nbd_info of disk {vdi_name} is no list of addresses")
    return list(infos)


def _around(session: Session, pool: PoolMap, vdi_ref: str, failure: XapiError) -> list[XapiRecord]:
    """The ways that XAPI does not tell because of one host; or what to do about that host."""
    dead = failure.params[0] if isinstance(failure, XapiFailure) and failure.params else ""
    who = pool.hosts.get(dead)
    name = f"host {who['name_label']}" if who else "a host"
    remedy = (
        f"start it, or forget it: xe host-forget uuid={who['uuid']}" if who else "look at the pool's hosts"
    )
    record = session.call("VDI.get_record", vdi_ref)
    if record["type"] == "cbt_metadata":
        raise _no_data(session)
    ways = ways_to_live_hosts(session, pool, record, dead)
    if not ways:
        raise NotExportable(
            f"pool {session.pool} lists no addresses: {name} does not answer, with the disk's storage still "
            f"recorded as plugged in there, and no other host can serve the disk; {remedy}",
            temporary=True,
        ) from failure
    warn_once(
        f"pool {session.pool}: {name} does not answer, so XAPI lists no NBD address at all; disks are "
        f"read from the live hosts, at addresses worked out from their PIFs; {remedy}"
    )
    return ways


def _no_data(session: Session) -> NotExportable:
    return NotExportable(
        f"pool {session.pool} does not export a disk of this type over NBD "
        "(a metadata-only snapshot has no data)"
    )


def _endpoint(session: Session, pool: PoolMap, info: XapiRecord, vdi_name: str) -> Endpoint | None:
    address = bare_address(info["address"])
    if is_link_local(address):
        return None
    text = str(info["port"])
    port = int(text) if text.isdecimal() else 0
    if not 0 < port < 65536:
        raise BadAnswer(f"pool {session.pool}: disk {vdi_name} has an NBD port that is none")
    session.memory.nbd_port = port
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
        if not session.settings.allow_insecure_nbd:
            raise NotExportable(
                f"pool {session.pool}: the network of {name} has the purpose insecure_nbd, which has no "
                "TLS: nothing is sent there; give it the purpose nbd instead, or set "
                f"pools.{session.pool}.allow_insecure_nbd = true"
            )
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
    plugged = {host for host in plugged_hosts(session, storage) if host in pool.hosts and pool.is_live(host)}
    what = "it cannot be read over NBD"
    if not plugged:
        name = session.call("SR.get_name_label", storage)
        return NotExportable(f'{what}: its storage "{name}" has no plugged PBD on a live host; plug it in')
    if not pool.all_purposes:
        return _NotYet(f"{what}: {no_purpose_text(session.pool)}")
    if pool.mixed:
        return _NotYet(f"{what}: {mixed_text(session.pool)}")
    if not any(pool.nbd_addresses(host) for host in plugged):
        names = ", ".join(sorted(pool.hosts[host]["name_label"] for host in plugged))
        return NotExportable(
            f"{what}: no host that has its storage ({names}) has a plugged PIF with an IP address on a "
            "network for NBD; plug the PIF in and give it an address, or add the purpose to another network"
        )
    return _NotYet(f"{what}: XAPI gave no address, though all conditions hold now", temporary=True)
