"""VDI.get_nbd_info: where a disk can be read, as the database believes."""

from __future__ import annotations

from typing import Any

from infra.simulator.calls.registry import Context, call
from infra.simulator.failures import Failure
from infra.simulator.gate import check_host
from infra.simulator.schema import NULL
from infra.simulator.state import State

NBD_PURPOSES = {"nbd", "insecure_nbd"}


@call("VDI.get_nbd_info", "vm-admin")
def get_nbd_info(context: Context, vdi: str) -> list[dict[str, Any]]:
    """One entry an address; PBD.currently_attached is trusted, also that of a dead host, whose certificate
    then cannot be fetched: HOST_OFFLINE for the whole call."""
    state, database = context.state, context.state.database
    record = database.get("VDI", vdi)
    if record["type"] == "cbt_metadata":
        raise Failure("VDI_INCOMPATIBLE_TYPE", vdi, "CBT metadata")
    entries = []
    pbds = [
        database.get("PBD", pbd) for pbd in database.find("PBD", SR=record["SR"], currently_attached=True)
    ]
    for host in sorted({pbd["host"] for pbd in pbds}):
        addresses = nbd_addresses(state, host)
        if not addresses:
            continue
        check_host(state, host)
        certificate = state.certificates[host]
        entries += [
            {
                "exportname": f"/{record['uuid']}?session_id={context.session}",
                "address": address,
                "port": state.nbd_port,
                "cert": certificate.leaf_pem,
                "subject": certificate.subject,
            }
            for address in addresses
        ]
    return entries


def nbd_addresses(state: State, host: str) -> list[str]:
    """IPv4, then IPv6 with its prefix length, of each plugged PIF on a network with either purpose."""
    database = state.database
    found = []
    for ref in sorted(database.find("PIF", host=host, currently_attached=True)):
        pif = database.get("PIF", ref)
        if pif["network"] == NULL or not NBD_PURPOSES & set(
            database.get("network", pif["network"])["purpose"]
        ):
            continue
        found += [address for address in (pif["IP"], *pif["IPv6"]) if address]
    return found
