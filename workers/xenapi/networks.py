"""Which host of a pool has which address, and which networks are there for NBD.

NBD is served on networks with the purpose `nbd` (TLS is forced) or `insecure_nbd` (no TLS); with both in
one pool the hosts refuse every connection.
"""

from __future__ import annotations

import ipaddress
import logging
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

from workers.xenapi.errors import BadAnswer, XapiFailure
from workers.xenapi.records import XapiRecord, XapiRecords
from workers.xenapi.session import Session

SECURE, INSECURE = "nbd", "insecure_nbd"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class NbdNetwork:
    uuid: str
    name: str
    purpose: str
    """`nbd` or `insecure_nbd`."""


@dataclass(frozen=True)
class NbdHost:
    uuid: str
    name: str
    live: bool
    addresses: tuple[str, ...]
    """IPv4 addresses of its plugged PIFs on networks with an NBD purpose."""


@dataclass(frozen=True)
class PoolNbd:
    """How a pool is set up for NBD; `problems` holds one line each, empty when all is well."""

    networks: tuple[NbdNetwork, ...]
    hosts: tuple[NbdHost, ...]
    problems: tuple[str, ...]

    @property
    def mixed(self) -> bool:
        """Both purposes at once: the hosts then refuse every NBD connection."""
        return len({network.purpose for network in self.networks}) > 1


def explain_pool_nbd(session: Session) -> PoolNbd:
    """How the pool is set up for NBD, for people. A few bulk calls."""
    pool = PoolMap.load(session)
    networks = tuple(
        NbdNetwork(record["uuid"], record["name_label"], purpose)
        for ref, record in pool.networks.items()
        for purpose in pool.purposes(ref)
    )
    hosts = tuple(
        NbdHost(
            record["uuid"],
            record["name_label"],
            pool.is_live(ref),
            tuple(sorted(address for address in pool.nbd_addresses(ref) if not is_ipv6(address))),
        )
        for ref, record in pool.hosts.items()
    )
    problems = []
    if not networks:
        problems.append(no_purpose_text(session.pool))
    if pool.mixed:
        problems.append(mixed_text(session.pool))
    for host in hosts:
        if not host.live:
            problems.append(
                f"host {host.name} is offline; XAPI may list no NBD address until it is back or forgotten: "
                f"xe host-forget uuid={host.uuid}"
            )
        elif networks and not host.addresses:
            problems.append(f"host {host.name} has no plugged PIF with an IPv4 address on a network for NBD")
    return PoolNbd(
        tuple(sorted(networks, key=lambda network: (network.name, network.uuid))),
        tuple(sorted(hosts, key=lambda host: (host.name, host.uuid))),
        tuple(problems),
    )


def remember_members(session: Session) -> None:
    """Learns who else belongs to the pool. Raises XapiError."""
    PoolMap(all_records(session, "host"), {}, {}, {}).remember(session)


@dataclass(frozen=True)
class PoolMap:
    hosts: XapiRecords
    pifs: XapiRecords
    networks: XapiRecords
    metrics: XapiRecords
    """Of hosts; none where the pool does not tell."""

    @classmethod
    def load(cls, session: Session) -> PoolMap:
        hosts, pifs, networks = (all_records(session, kind) for kind in ("host", "PIF", "network"))
        try:
            metrics = all_records(session, "host_metrics")
        except XapiFailure as failure:
            log.debug("%s", failure)
            metrics = {}
        pool = cls(hosts, pifs, networks, metrics)
        pool.remember(session)
        return pool

    def remember(self, session: Session) -> None:
        """The hosts' addresses, live hosts first: whom to ask when the master does not answer."""
        refs = sorted(self.hosts, key=lambda ref: not self.is_live(ref))
        found = (str(self.hosts[ref].get("address", "")) for ref in refs)
        session.memory.addresses = tuple(address for address in found if address)

    def purposes(self, network: str) -> tuple[str, ...]:
        record = self.networks.get(network, {})
        return tuple(purpose for purpose in (SECURE, INSECURE) if purpose in record.get("purpose", ()))

    @property
    def all_purposes(self) -> set[str]:
        return {purpose for network in self.networks for purpose in self.purposes(network)}

    @property
    def mixed(self) -> bool:
        return self.all_purposes == {SECURE, INSECURE}

    def nbd_addresses(self, host: str) -> set[str]:
        """Of the host's plugged PIFs on networks with an NBD purpose."""
        return {
            address
            for pif in self.pifs.values()
            if pif["host"] == host and pif["currently_attached"] and self.purposes(pif["network"])
            for address in _addresses(pif)
        }

    def only_together_at(self, address: str) -> bool:
        """Several hosts have this address for NBD, and none of them another one (IPv4 alone counts)."""
        by_host = [{each for each in self.nbd_addresses(ref) if not is_ipv6(each)} for ref in self.hosts]
        sharing = [addresses for addresses in by_host if address in addresses]
        return len(sharing) > 1 and all(addresses == {address} for addresses in sharing)

    def is_live(self, host: str) -> bool:
        """As the master sees it; a host that nothing is known of counts as live."""
        return bool(self.metrics.get(self.hosts[host].get("metrics", ""), {}).get("live", True))

    def why_left_out(self, host: str) -> str | None:
        """Why disks should rather be read from another host."""
        if not self.is_live(host):
            return "it is offline"
        if not self.hosts[host].get("enabled", True):
            return "it is disabled, as for maintenance"
        return None

    def owner(self, address: str, subject: str) -> tuple[str, set[str]] | None:
        """The one host with this address, and the purposes of the network it has it on (empty: unknown).

        Plugged PIFs count before unplugged ones, then host.address, then the name in the certificate: an
        address that two hosts share, or that none has (behind NAT), says nothing by itself.
        """
        for attached in (True, False):
            pifs = [
                pif
                for pif in self.pifs.values()
                if bool(pif["currently_attached"]) is attached and address in _addresses(pif)
            ]
            hosts = {pif["host"] for pif in pifs} & set(self.hosts)
            if len(hosts) > 1:
                hosts &= self._named(subject)
            if len(hosts) == 1:
                host = hosts.pop()
                return host, {p for pif in pifs if pif["host"] == host for p in self.purposes(pif["network"])}
        addressed = {ref for ref, host in self.hosts.items() if bare_address(host["address"]) == address}
        for hosts in (addressed, self._named(subject)):
            if len(hosts) == 1:
                return hosts.pop(), set()
        return None

    def _named(self, subject: str) -> set[str]:
        """Hosts called `subject`: in full, or by the first label of a full name."""
        wanted = {subject.lower(), subject.lower().partition(".")[0]} - {"", "*"}
        return {
            ref
            for ref, host in self.hosts.items()
            if not wanted.isdisjoint({host["hostname"].lower(), host["name_label"].lower()})
        }


def no_purpose_text(pool: str) -> str:
    return (
        f"no network of pool {pool} has an NBD purpose; on the pool's master: "
        "xe network-param-add param-name=purpose param-key=nbd uuid=<network uuid>"
    )


def mixed_text(pool: str) -> str:
    return (
        f"pool {pool} has networks with the purpose nbd and with insecure_nbd at once, so its hosts refuse "
        "every NBD connection; remove one of the two"
    )


def all_records(session: Session, kind: str) -> XapiRecords:
    records = session.call(f"{kind}.get_all_records")
    if not isinstance(records, dict):
        raise BadAnswer(f"pool {session.pool}: {kind}.get_all_records is not a map")
    return records


def plugged_hosts(session: Session, storage: str) -> list[str]:
    """References of the hosts that have a storage repository plugged in, as the database says."""
    return sorted(
        pbd["host"]
        for pbd in all_records(session, "PBD").values()
        if pbd["SR"] == storage and pbd["currently_attached"]
    )


def _addresses(pif: XapiRecord) -> Iterable[str]:
    return [bare_address(text) for text in (pif["IP"], *pif.get("IPv6", ())) if text]


@lru_cache(maxsize=4096)
def bare_address(address: str) -> str:
    """Without the "/64" that XAPI leaves on IPv6 addresses, in the one canonical spelling."""
    address = address.partition("/")[0]
    try:
        return str(ipaddress.ip_address(address))
    except ValueError:
        return address


def is_ipv6(address: str) -> bool:
    return ":" in address


def is_link_local(address: str) -> bool:
    """Such an address needs the name of an interface of ours beside it, which nobody can know."""
    try:
        return ipaddress.ip_address(address).is_link_local
    except ValueError:
        return False
