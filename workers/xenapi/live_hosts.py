"""The ways to a disk that XAPI does not tell when one host of the pool is dead.

`VDI.get_nbd_info` asks every host that has the disk's storage plugged in, in the database, for its
certificate; a dead one makes the whole call fail. What it would say of the others can be put together from
records and from what each host answers for itself (docs/adr/0032-ways-around-a-dead-host.md).
"""

from __future__ import annotations

import logging

from cryptography import x509

from workers.xenapi.errors import CallTimedOut, XapiFailure
from workers.xenapi.networks import INSECURE, PoolMap, plugged_hosts
from workers.xenapi.records import XapiRecord
from workers.xenapi.session import Session

log = logging.getLogger(__name__)


HOST_AWAY = {"HOST_OFFLINE", "HOST_NOT_LIVE", "HOST_BROKEN", "CANNOT_CONTACT_HOST"}


def ways_to_live_hosts(session: Session, pool: PoolMap, disk: XapiRecord, dead: str) -> list[XapiRecord]:
    """Entries as those of `VDI.get_nbd_info`, of the live hosts that have the disk's storage.

    `dead` is the host that made the call fail, if XAPI said which. Raises XapiError.
    """
    port = session.memory.nbd_port or session.settings.nbd_port
    ways: list[XapiRecord] = []
    for host in plugged_hosts(session, disk["SR"]):
        if host not in pool.hosts or host == dead or not pool.is_live(host):
            continue
        certificate = _certificate(session, pool, host)
        if certificate is None:
            continue
        ways += [
            {
                "address": address,
                "port": port,
                "exportname": session.export_name(disk["uuid"]),
                "cert": certificate,
                "subject": _subject(certificate) or pool.hosts[host]["hostname"],
            }
            for address in sorted(pool.nbd_addresses(host))
        ]
    return ways


def _certificate(session: Session, pool: PoolMap, host: str) -> str | None:
    """The host's certificate, "" where none is needed to read from it, None where there is no way to read."""
    if pool.all_purposes == {INSECURE}:
        return ""
    try:
        return str(session.call("host.get_server_certificate", host))
    except (XapiFailure, CallTimedOut) as error:
        log.debug("%s", error)
        away = isinstance(error, XapiFailure) and error.code in HOST_AWAY
        return "" if session.settings.nbd_tls == "ca" and not away else None


def _subject(certificate: str) -> str | None:
    """The name to expect, by XAPI's own rule: the first full DNS name, else the first with a wildcard."""
    try:
        loaded = x509.load_pem_x509_certificate(certificate.encode())
        names = loaded.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        found = names.get_values_for_type(x509.DNSName)
    except (ValueError, x509.ExtensionNotFound):
        return None
    return next((name for name in found if "*" not in name), next(iter(found), None))
