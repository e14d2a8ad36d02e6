"""What one login tells of a pool: every kind of record once, whatever the number of VMs and disks.

A question that fails or hangs is noted and the next is asked; the checks are pure functions over what came.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial

from scheduler.checks.messages import PoolMessages, messages_matter_since, read_messages
from workers.errors import CbtfleetError
from workers.settings import PoolSettings
from workers.xenapi import PoolNbd, Session, XapiRecord, XapiRecords, explain_pool_nbd

CALL_TIMEOUT = 20.0
"""Seconds for one call: ten thousand disks take some to be listed; a call that hangs is given up."""

FEW = ("pool", "host", "host_metrics", "SM", "SR", "PBD")
MANY = ("VM", "VBD", "VDI")
"""Asked for last: a pool that takes too long to list these has told the rest."""


class NotRead(CbtfleetError):
    """The pool did not tell what a check needs."""


@dataclass(frozen=True)
class NbdAddress:
    """What XAPI says of one address for NBD. Never the export name."""

    port: int
    certificate: str = field(repr=False)
    subject: str


@dataclass
class PoolFacts:
    """Filled by `gather` in one thread; read by others when that has ended, or is not waited for any more."""

    name: str
    settings: PoolSettings
    master_address: str = ""
    records: dict[str, XapiRecords] = field(default_factory=dict)
    nbd: PoolNbd | None = None
    nbd_addresses: dict[str, NbdAddress] = field(default_factory=dict)
    """By address, as `VDI.get_nbd_info` tells."""
    certificates: dict[str, str] = field(default_factory=dict, repr=False)
    """By host reference, where no address tells it."""
    messages: PoolMessages | None = None
    ahead: float | None = None
    """Seconds that the master's clock is ahead of ours; None: it told no time that we could read."""
    permissions: frozenset[str] | None = None
    """Lower-case names of calls; None: of root, or not known."""
    is_root: bool = False
    failures: dict[str, str] = field(default_factory=dict)
    """Why a question has no answer."""
    refused: CbtfleetError | None = None
    """Why we did not get in."""

    def of(self, kind: str) -> XapiRecords:
        """The records of a kind by reference. Raises NotRead."""
        if kind not in self.records:
            raise self.not_read(f"{kind} records")
        return self.records[kind]

    def messages_about(self, uuid: str, since: str) -> Sequence[XapiRecord] | None:
        """XAPI's messages about an object, of `since` (ISO 8601) or later; None: this pool keeps none.

        Raises NotRead.
        """
        if self.messages is None:
            raise self.not_read("messages")
        if self.messages.since is None or since < self.messages.since:
            raise NotRead(f"pool {self.name} was not asked for messages of {since}")
        return self.messages.by_object.get(uuid, ()) if self.messages.kept else None

    def not_read(self, what: str) -> NotRead:
        return NotRead(self.failures.get(what, f"pool {self.name} did not tell its {what} in time"))

    def is_live(self, host: str) -> bool:
        """As the master sees it; a host that nothing is known of counts as live."""
        metrics = self.records.get("host_metrics", {}).get(self.of("host")[host].get("metrics", ""), {})
        return bool(metrics.get("live", True))

    def host_name(self, host: str) -> str:
        return str(self.of("host").get(host, {}).get("name_label", "a host that is gone"))

    def plugged_hosts(self, storage: str) -> list[str]:
        """References of live hosts that have the storage plugged in."""
        hosts = {
            pbd["host"]
            for pbd in self.of("PBD").values()
            if pbd["SR"] == storage and pbd["currently_attached"]
        }
        return sorted(host for host in hosts if host in self.of("host") and self.is_live(host))

    def gather(self) -> None:
        """Logs in, asks, logs out. Raises nothing."""
        quick = self.settings.model_copy(update={"timeout": min(self.settings.timeout, CALL_TIMEOUT)})
        try:
            with Session.login(self.name, quick, patience=0) as session:
                self.master_address = session.master_address
                for kind in FEW:
                    self._ask(f"{kind} records", partial(self._read, session, kind))
                self._ask("clock", lambda: self._look_at_clock(session))
                self._ask("networks", lambda: self._look_at_networks(session))
                self._ask("role", lambda: self._look_at_role(session))
                for kind in MANY:
                    self._ask(f"{kind} records", partial(self._read, session, kind))
                self._ask("NBD addresses", lambda: self._read_nbd_addresses(session))
                for ref, host in self.records.get("host", {}).items():
                    if self.is_live(ref) and not self._has_nbd_address(host["uuid"]):
                        self._ask(
                            f"certificate of {host['name_label']}",
                            partial(self._certificate, session, ref),
                        )
                self._ask("messages", partial(self._read_messages, session))
        except CbtfleetError as error:
            if not self.master_address:
                self.refused = error

    def _ask(self, what: str, question: Callable[[], None]) -> None:
        try:
            question()
        except CbtfleetError as error:
            self.failures[what] = str(error)
        except (KeyError, TypeError, ValueError, AttributeError):
            self.failures[what] = f"pool {self.name} answers in a way that we do not understand"

    def _read(self, session: Session, kind: str) -> None:
        self.records[kind] = dict(session.call(f"{kind}.get_all_records"))

    def _read_messages(self, session: Session) -> None:
        since = messages_matter_since(self.of("VM"), self.of("VBD"), self.of("VDI"))
        self.messages = read_messages(session, since)

    def _look_at_clock(self, session: Session) -> None:
        master = next(iter(self.of("pool").values()))["master"]
        before = time.time()
        there = session.call("host.get_servertime", master)
        here = (before + time.time()) / 2
        stamp = datetime.strptime(str(there).replace("-", ""), "%Y%m%dT%H:%M:%SZ").replace(tzinfo=UTC)
        self.ahead = stamp.timestamp() + 0.5 - here  # whole seconds only

    def _look_at_networks(self, session: Session) -> None:
        self.nbd = explain_pool_nbd(session)

    def _look_at_role(self, session: Session) -> None:
        self.is_root = bool(session.own("is_local_superuser"))
        named = frozenset(str(name).lower() for name in session.own("rbac_permissions"))
        self.permissions = named or None

    def _read_nbd_addresses(self, session: Session) -> None:
        disk = self._disk_of_most_hosts()
        if disk is None:
            return
        for info in session.call("VDI.get_nbd_info", disk):
            self.nbd_addresses[str(info["address"])] = NbdAddress(
                int(info["port"]), str(info["cert"]), str(info["subject"])
            )

    def _disk_of_most_hosts(self) -> str | None:
        """Of an ordinary disk that as many hosts as possible can serve: get_nbd_info tells of these alone."""
        reach = {storage: len(self.plugged_hosts(storage)) for storage in self.of("SR")}
        disks = [
            ref
            for ref, disk in self.of("VDI").items()
            if disk["type"] in ("user", "system") and not disk["is_a_snapshot"] and reach.get(disk["SR"])
        ]
        return max(disks, key=lambda ref: (reach[self.of("VDI")[ref]["SR"]], ref), default=None)

    def _has_nbd_address(self, host_uuid: str) -> bool:
        addresses: Collection[str] = ()
        for host in self.nbd.hosts if self.nbd else ():
            if host.uuid == host_uuid:
                addresses = host.addresses
        return all(address in self.nbd_addresses for address in addresses)

    def _certificate(self, session: Session, host: str) -> None:
        self.certificates[host] = str(session.call("host.get_server_certificate", host))
