"""A pool: do we get in, can its disks be read over NBD, does its storage track changed blocks."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from scheduler.checks.check import Check, failed, ok, warning
from scheduler.checks.clock import clock_check
from workers.errors import CbtfleetError
from workers.settings import PoolSettings
from workers.xenapi import LoginRefused, PoolNbd, PoolUnreachable, PoolUntrusted, Session, explain_pool_nbd

_CBT = "VDI_CONFIG_CBT"
"""The feature of a storage manager's driver that means changed-block tracking."""

_NO_DISKS = {"iso", "udev"}
"""Types of storage that hold CD images and host devices, never a VM's disk."""


def check_pool(name: str, settings: PoolSettings) -> list[Check]:
    """Every Check of one pool; one only when we don't get in."""
    title = f"pool {name}"
    try:
        with Session.login(name, settings, patience=0) as session:
            found = [ok(title, f"logged in at its master, {session.master_address}")]
            found += _check_trust(title, settings)
            parts: tuple[tuple[str, Callable[[Session], list[Check]]], ...] = (
                (f"{title} NBD", lambda session: nbd_checks(f"{title} NBD", explain_pool_nbd(session))),
                (f"{title} storage", lambda session: _check_storage(f"{title} storage", session)),
                (f"{title} licence", lambda session: _check_licence(f"{title} licence", session)),
                (f"{title} clock", lambda session: _check_clock(f"{title} clock", session)),
            )
            for part, look in parts:
                try:
                    found += look(session)
                except CbtfleetError as error:
                    found.append(
                        warning(part, f"could not be looked at: {error}", "give the user leave to read it")
                    )
            return found
    except CbtfleetError as error:
        return [failed(title, str(error), _login_advice(error))]


def _login_advice(error: CbtfleetError) -> str:
    if isinstance(error, PoolUntrusted):
        return "set ca_file, or certificate_sha256 as read on the host itself"
    if isinstance(error, LoginRefused):
        return "check username and password_file"
    if isinstance(error, PoolUnreachable):
        return "check the pool's url, its firewall, and that its master is up"
    return "look at the pool's configuration"


def _check_trust(title: str, settings: PoolSettings) -> list[Check]:
    name = f"{title} TLS"
    if settings.url.startswith("http://"):
        return [failed(name, "the url is http: the password crosses the network readable", "use https")]
    if not settings.verify_tls:
        return [warning(name, "verify_tls is off: anybody may answer", "set ca_file or certificate_sha256")]
    return []


def nbd_checks(name: str, pool: PoolNbd) -> list[Check]:
    """One Check for the pool's networks, and one for each problem."""
    found = []
    if any(network.purpose == "insecure_nbd" for network in pool.networks):
        said = "a network has the purpose insecure_nbd: disks cross it unencrypted"
        found.append(warning(name, said, "give it the purpose nbd instead"))
    usable = any(host.live and host.addresses for host in pool.hosts) and not pool.mixed
    for problem in pool.problems:
        head, _, advice = problem.partition("; ")
        found.append((warning if usable else failed)(name, head, advice or "set this right on the pool"))
    if not found:
        networks = ", ".join(network.name for network in pool.networks)
        hosts = sum(bool(host.addresses) for host in pool.hosts)
        found.append(ok(name, f"{hosts} of {len(pool.hosts)} hosts serve it, on {networks}"))
    return found


def _check_storage(name: str, session: Session) -> list[Check]:
    features = {driver["type"]: driver.get("features", ()) for driver in _records(session, "SM").values()}
    plugged = {pbd["SR"] for pbd in _records(session, "PBD").values() if pbd["currently_attached"]}
    found = []
    good = []
    for ref, storage in _records(session, "SR").items():
        if storage["type"] in _NO_DISKS or storage.get("content_type") == "iso":
            continue
        label = storage["name_label"]
        if ref not in plugged:
            found.append(
                warning(name, f"{label} is plugged in to no host", "plug its PBD in, if it holds disks")
            )
        elif _CBT not in features.get(storage["type"], ()):
            said = (
                f"{label} ({storage['type']}) cannot track changed blocks: every backup would be a full one"
            )
            found.append(warning(name, said, "move disks that are backed up to storage that can"))
        else:
            good.append(label)
    if good:
        found.insert(0, ok(name, f"changed blocks are tracked on {', '.join(sorted(good))}"))
    return found or [warning(name, "no storage for disks was found", "does the user see all of the pool?")]


def _check_licence(name: str, session: Session) -> list[Check]:
    for pool in _records(session, "pool").values():
        if pool.get("restrictions", {}).get("restrict_cbt") == "true":
            todo = "license the pool for changed block tracking"
            return [failed(name, "does not include changed block tracking", todo)]
    return []


def _check_clock(name: str, session: Session) -> list[Check]:
    pool = next(iter(_records(session, "pool").values()))
    before = time.time()
    there = session.call("host.get_servertime", pool["master"])
    here = (before + time.time()) / 2
    try:
        stamp = datetime.strptime(str(there).replace("-", ""), "%Y%m%dT%H:%M:%SZ").replace(tzinfo=UTC)
    except ValueError:
        return [warning(name, "it tells no time that we could read", "look at the clock of its master")]
    ahead = stamp.timestamp() + 0.5 - here  # whole seconds only
    return [clock_check(name, ahead)]


def _records(session: Session, kind: str) -> Mapping[str, Mapping[str, Any]]:
    records: Mapping[str, Mapping[str, Any]] = session.call(f"{kind}.get_all_records")
    return records
