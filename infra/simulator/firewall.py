"""What XAPI's firewall script does to NBD: an address carries it only while its network has a purpose.

The script follows changes with a pause of 5 s, and with iptables it also kills established connections.
"""

from __future__ import annotations

from infra.simulator.calls.nbd_info import NBD_PURPOSES
from infra.simulator.failures import Stopping
from infra.simulator.hosts import SimulatedHost
from infra.simulator.state import State


def keep_firewall(state: State, hosts: list[SimulatedHost]) -> None:
    """Runs until the pool stops."""
    with state.lock:
        applied: dict[str, bool] | None = dict.fromkeys(_wanted(state), True)
    while applied is not None and (applied := _next_change(state, applied)) is not None:
        # Without the lock: the connections that are cut need it to clean up.
        for host in hosts:
            for address in host.addresses:
                if applied.get(address):
                    host.open_address(address)
                else:
                    host.close_address(address)


def _next_change(state: State, applied: dict[str, bool]) -> dict[str, bool] | None:
    """What is wanted once it differs from what is applied and the pause is over; None: the pool stops."""
    with state.lock:
        try:
            state.wait_for(lambda: _wanted(state) != applied, 1e9)
            state.pause(state.spec.timing.firewall_delay)
        except Stopping:
            return None
        return _wanted(state)


def _wanted(state: State) -> dict[str, bool]:
    """Which addresses may carry NBD."""
    database = state.database
    pifs = [database.get("PIF", ref) for ref in database.refs("PIF")]
    return {
        pif["IP"]: bool(NBD_PURPOSES & set(database.get("network", pif["network"])["purpose"]))
        for pif in pifs
    }
