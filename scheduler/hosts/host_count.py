"""How many of our connections one host still has, by the records of its control domain.

Each NBD connection that a host serves is a VBD in its control domain, from EXPORT_NAME until the host has
unplugged and destroyed it: only then is the connection's place free. So a record that exists counts, plugged
in or not.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from scheduler.pool_objects.ownership import tag_of
from workers.errors import CbtfleetError
from workers.xenapi import (
    NULL_REF,
    Session,
    XapiFailure,
    XapiRecord,
    is_unknown_call,
    record_or_none,
    records_where,
)


class NotCountable(CbtfleetError):
    """This pool cannot say what is plugged in to a host's control domain."""


@dataclass(frozen=True)
class Count:
    """What is plugged in to one host's control domain."""

    plugged: tuple[str, ...]
    """The uuid of our snapshot behind each VBD; a snapshot with two connections is there twice."""
    others: int
    """VBDs of snapshots that are not ours: another backup's connections, as far as one can tell."""


@dataclass
class HostCounter:
    """Counts the hosts of one pool through one session, and remembers what cannot change meanwhile."""

    session: Session
    repository_id: str
    _domains: dict[str, str] = field(default_factory=dict)
    _disks: dict[str, tuple[str, bool, bool]] = field(default_factory=dict)

    def count(self, host: str) -> Count:
        """`host` is a uuid, or what `nbd_endpoints` calls hosts that share an address: these the pool
        does not know, and nobody can say whose control domain to look at.

        Raises NotCountable, or XapiError when the pool does not answer.
        """
        try:
            return self._count(host)
        except XapiFailure as failure:
            if failure.code == "UUID_INVALID":
                raise NotCountable(f"pool {self.session.pool} knows no host {host}") from failure
            if is_unknown_call(failure) or failure.code == "RBAC_PERMISSION_DENIED":
                raise NotCountable(str(failure)) from failure
            raise

    def _count(self, host: str) -> Count:
        if host not in self._domains:
            self._domains[host] = self._control_domain(host)
        plugged = []
        others = 0
        for vbd in self._vbds(self._domains[host]):
            if vbd.get("empty") or vbd["VDI"] == NULL_REF:
                continue
            uuid, is_snapshot, is_ours = self._disk(vbd["VDI"])
            if is_ours:
                plugged.append(uuid)
            elif is_snapshot:
                others += 1
        return Count(tuple(sorted(plugged)), others)

    def _control_domain(self, host: str) -> str:
        """The ref of the host's domain 0. Every pool of ours answers one of the two ways."""
        host_ref = self.session.call("host.get_by_uuid", host)
        for ref, record in records_where(self.session, "VM", "is_control_domain").items():
            if record.get("resident_on") == host_ref:
                return ref
        named = self.session.call("host.get_record", host_ref).get("control_domain", NULL_REF)
        if named == NULL_REF:
            raise NotCountable(f"pool {self.session.pool} shows no control domain of host {host}")
        return str(named)

    def _vbds(self, domain: str) -> list[XapiRecord]:
        """Only this domain's: a pool may have thousands of VBDs."""
        try:
            found = self.session.call("VBD.get_all_records_where", f'field "VM"="{domain}"')
        except XapiFailure as failure:
            if not is_unknown_call(failure):
                raise
            refs = self.session.call("VM.get_record", domain)["VBDs"]
            found = {ref: record_or_none(self.session, "VBD", ref) for ref in refs}
        return [record for record in found.values() if record is not None and record["VM"] == domain]

    def _disk(self, ref: str) -> tuple[str, bool, bool]:
        """uuid, whether it is a snapshot, whether it is ours: tagged before anybody can connect to it."""
        if ref not in self._disks:
            record = record_or_none(self.session, "VDI", ref)
            if record is None:
                return "", False, False
            ours = tag_of(record, self.repository_id) is not None
            self._disks[ref] = (record["uuid"], bool(record["is_a_snapshot"]), ours)
        return self._disks[ref]
