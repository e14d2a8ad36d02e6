"""Calls on pool, hosts, networks, storage repositories, their plugs, and messages."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from infra.simulator import storage
from infra.simulator.calls.nbd_info import NBD_PURPOSES
from infra.simulator.calls.registry import Context, call
from infra.simulator.failures import Failure
from infra.simulator.gate import check_host, sr_operation


@call("network.add_purpose", "pool-admin", asynchronous=True)
def add_purpose(context: Context, network: str, value: str) -> None:
    """Idempotent; a pool's networks are all "nbd" or all "insecure_nbd"."""
    database = context.state.database
    record = database.get("network", network)
    if value not in NBD_PURPOSES:
        raise Failure("INTERNAL_ERROR", f"unknown purpose {value}")
    if not record["managed"]:
        raise Failure("NETWORK_UNMANAGED", network)
    for other in database.refs("network"):
        for existing in database.get("network", other)["purpose"]:
            if existing != value:
                raise Failure("NETWORK_INCOMPATIBLE_PURPOSES", value, existing)
    if value not in record["purpose"]:
        database.update("network", network, purpose=[*record["purpose"], value])


@call("network.remove_purpose", "pool-admin", asynchronous=True)
def remove_purpose(context: Context, network: str, value: str) -> None:
    database = context.state.database
    left = [purpose for purpose in database.get("network", network)["purpose"] if purpose != value]
    database.update("network", network, purpose=left)


@call("SR.scan", "vm-power-admin", asynchronous=True)
def scan(context: Context, sr: str) -> None:
    with sr_operation(context, sr, "scan"):
        storage.scan(context.state, sr)


@call("PBD.plug", "pool-operator", asynchronous=True)
def pbd_plug(context: Context, pbd: str) -> None:
    context.state.database.update("PBD", pbd, currently_attached=True)


@call("PBD.unplug", "pool-operator", asynchronous=True)
def pbd_unplug(context: Context, pbd: str) -> None:
    context.state.database.update("PBD", pbd, currently_attached=False)


@call("PIF.plug", "pool-operator", asynchronous=True)
def pif_plug(context: Context, pif: str) -> None:
    context.state.database.update("PIF", pif, currently_attached=True)


@call("PIF.unplug", "pool-operator", asynchronous=True)
def pif_unplug(context: Context, pif: str) -> None:
    context.state.database.update("PIF", pif, currently_attached=False)


@call("host.get_servertime", "read-only")
def get_servertime(context: Context, host: str) -> datetime:
    context.state.database.get("host", host)
    return context.state.now()


@call("host.get_server_certificate", "read-only", asynchronous=True)
def get_server_certificate(context: Context, host: str) -> str:
    """Asked of that very host."""
    context.state.database.get("host", host)
    check_host(context.state, host)
    return context.state.certificates[host].leaf_pem


@call("host.disable", "pool-operator", asynchronous=True)
def disable_host(context: Context, host: str) -> None:
    """As maintenance begins: nothing starts there any more, but what runs, and NBD, goes on."""
    context.state.database.update("host", host, enabled=False)


@call("host.enable", "pool-operator", asynchronous=True)
def enable_host(context: Context, host: str) -> None:
    context.state.database.update("host", host, enabled=True)


@call("message.get", "read-only")
def message_get(context: Context, cls: str, obj_uuid: str, since: Any) -> dict[str, Any]:
    """One object's that are later than `since`, by their times to the second."""
    context.state.database.by_uuid(cls, obj_uuid)
    start = _time(since)
    found = _messages(context, cls=cls, obj_uuid=obj_uuid)
    return {ref: each for ref, each in found.items() if each["timestamp"].replace(microsecond=0) > start}


@call("message.get_since", "read-only")
def message_get_since(context: Context, since: Any) -> dict[str, Any]:
    """Everybody's that are later than `since`, by the names of their files: to a fraction of a second."""
    start = _time(since)
    return {ref: each for ref, each in _messages(context).items() if each["timestamp"] > start}


@call("message.destroy", "pool-operator")
def message_destroy(context: Context, message: str) -> None:
    context.state.database.delete("message", message)


def _time(given: Any) -> datetime:
    """An xmlrpc date or a text, "20260101T12:00:00Z", with or without hyphens."""
    text = str(given).replace("-", "").removesuffix("Z")
    return datetime.strptime(text, "%Y%m%dT%H:%M:%S").replace(tzinfo=UTC)


def _messages(context: Context, **equal: str) -> dict[str, Any]:
    database = context.state.database
    return {ref: database.view("message", ref) for ref in database.find("message", **equal)}
