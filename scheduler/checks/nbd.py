"""Can disks be read from here: networks with a purpose, and does each host's NBD server let us in."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial

from scheduler.checks.attempt import Attempt, NotInTime
from scheduler.checks.check import Check, Subject, counted
from scheduler.checks.pool import pool_subject
from scheduler.checks.pool_facts import PoolFacts
from workers.fleet.grants import MOST_CONNECTIONS
from workers.nbd import Deadlines, Probe, Tls, probe_server
from workers.xenapi import NbdHost, PoolNbd

PROBE_DEADLINES = Deadlines(connect=5, handshake=10, greeting=5, close=2)
"""Shorter than a stream's: a person waits, and no disk is to be attached."""

_PROBE_SECONDS = 30.0
_NOT_TRIED = "not tried"

_ADVICE = {
    "busy": "look who uses them (cbtfleet slots), and whether a purpose was just changed; then look again",
    "unreachable": "open the way from this machine to that address and port (firewall, route)",
    "silent": "look whether xapi-nbd is well on that host: systemctl status xapi-nbd",
    "untrusted": "if the host's certificate was replaced, on that host: systemctl restart xapi-nbd",
    "no-tls": "give the network the purpose nbd instead of insecure_nbd; a change takes about ten seconds",
    "failed": "look whether xapi-nbd is well on that host: systemctl status xapi-nbd",
}


def check_networks(facts: PoolFacts) -> list[Check]:
    """One line of the networks and their purposes, and one of each problem."""
    subject, name = pool_subject(facts.name), "pool.networks"
    nbd = _nbd(facts)
    found = []
    purposes = sorted(f"{network.name} ({network.purpose})" for network in nbd.networks)
    if any(network.purpose == "insecure_nbd" for network in nbd.networks):
        said = "a network has the purpose insecure_nbd: disks cross it unencrypted"
        todo = "give it the purpose nbd instead"
        if facts.settings.allow_insecure_nbd:
            found.append(subject.warning(name, said, todo))
        else:
            said = "a network has the purpose insecure_nbd, which has no TLS: nothing is read over it"
            found.append(subject.failed(name, said, f"{todo}, or set allow_insecure_nbd = true"))
    usable = any(host.live and host.addresses for host in nbd.hosts) and not nbd.mixed
    for problem in nbd.problems:
        head, _, advice = problem.partition("; ")
        if "is offline" in head and usable:
            continue  # among the hosts already
        make = subject.warning if usable else subject.failed
        found.append(make(name, head, advice or "plug the PIF in and give it an address, or set the purpose"))
    if not found:
        addresses = "; ".join(f"{host.name} {', '.join(host.addresses)}" for host in nbd.hosts if host.live)
        found.append(subject.ok(name, f"for NBD: {', '.join(purposes)}; {addresses}"))
    return found


def check_handshakes(facts: PoolFacts, in_use: Mapping[str, int]) -> list[Check]:
    """A Check of each live host, all probed at once. `in_use`: connections by host uuid, as far as known."""
    subject = pool_subject(facts.name)
    nbd = _nbd(facts)
    hosts = [host for host in nbd.hosts if host.live and host.addresses]
    if nbd.mixed or not hosts:
        return []
    secure = any(network.purpose == "nbd" for network in nbd.networks)
    if not secure and not facts.settings.allow_insecure_nbd:
        return []  # nothing may be sent there; the networks' own check says so
    found = []
    probes = {}
    for host in hosts:
        used = in_use.get(host.uuid, 0)
        if used >= MOST_CONNECTIONS - 1:
            said = f"{host.name}: {_NOT_TRIED}, as {used} of its {MOST_CONNECTIONS} connections are in use"
            found.append(subject.warning("pool.handshake", said, _ADVICE["busy"], host.name))
            continue
        untold = _untold(facts, nbd, host)
        if untold:
            said = f"{host.name}: {_NOT_TRIED}, its certificate is not known: {untold}"
            found.append(subject.warning("pool.handshake", said, "look at that host, then again", host.name))
            continue
        probes[host.uuid] = Attempt(partial(_probe, facts, nbd, host), _PROBE_SECONDS)
    for host in hosts:
        if host.uuid in probes:
            found += _checks_of_host(subject, host, probes[host.uuid])
    return _judged(found)


def check_reach(facts: PoolFacts, handshakes: Sequence[Check], disks: Collection[str]) -> list[Check]:
    """Storage under `disks` (VDI references) that no host serves to us, by what `check_handshakes` found."""
    subject = pool_subject(facts.name)
    served = {
        check.about
        for check in handshakes
        if check.state == "ok" or check.todo == _ADVICE["busy"] or _NOT_TRIED in check.said
    }
    found = []
    held = Counter(str(facts.of("VDI")[disk]["SR"]) for disk in disks if disk in facts.of("VDI"))
    for storage, number in held.items() if served else ():
        hosts = {facts.host_name(host) for host in facts.plugged_hosts(storage)}
        if hosts and not hosts & served:
            label = str(facts.of("SR")[storage]["name_label"])
            names = ", ".join(sorted(hosts))
            said = f"{counted(number, 'disk')} on {label} can be read from no host: not from {names}"
            found.append(subject.failed("pool.handshake", said, "see these hosts above", label))
    return found


def _probe(facts: PoolFacts, nbd: PoolNbd, host: NbdHost) -> dict[str, Probe]:
    """By address, one after the other: each costs the host a connection while it lasts."""
    ref = _ref(facts, host)
    mode = facts.settings.nbd_tls if any(each.purpose == "nbd" for each in nbd.networks) else "none"
    known_port = next((known.port for known in facts.nbd_addresses.values()), facts.settings.nbd_port)
    probes = {}
    for address in host.addresses:
        known = facts.nbd_addresses.get(address)
        port = known.port if known else known_port
        certificate = known.certificate if known else facts.certificates.get(ref)
        subject = known.subject if known else str(facts.of("host")[ref].get("hostname", ""))
        probes[f"{address}:{port}"] = probe_server(
            address, port, Tls(mode, certificate, subject, facts.settings.ca_file), PROBE_DEADLINES
        )
    return probes


def _checks_of_host(subject: Subject, host: NbdHost, attempt: Attempt[dict[str, Probe]]) -> list[Check]:
    name = "pool.handshake"
    try:
        probes = attempt.result()
    except NotInTime as error:
        return [subject.failed(name, f"{host.name}: {error}", _ADVICE["silent"], host.name)]
    good = {where: each for where, each in probes.items() if each.state == "good"}
    found = []
    if good:
        slowest = max(each.seconds for each in good.values()) * 1000
        version = next(iter(good.values())).said
        checked = "not encrypted, not checked" if version == "no TLS" else f"certificate checked, {version}"
        said = f"{host.name}: {', '.join(good)} in {slowest:.0f} ms, {checked}"
        found.append(subject.ok(name, said, host.name))
    for where, each in probes.items():
        if each.state == "good":
            continue
        lost = each.state != "busy" and (not good or each.state == "untrusted")
        make = subject.failed if lost else subject.warning
        found.append(make(name, f"{host.name} at {where}: {each.said}", _ADVICE[each.state], host.name))
    return found


def _judged(found: list[Check]) -> list[Check]:
    """Where another host can serve, one that cannot is a warning: its disks are read from the others."""
    if not any(check.state == "ok" for check in found):
        return found
    return [replace(check, state="warning") if check.state == "failed" else check for check in found]


def _untold(facts: PoolFacts, nbd: PoolNbd, host: NbdHost) -> str:
    """Why the host's certificate, which is to be compared, is not known; "" when it is, or is not needed."""
    tls = any(network.purpose == "nbd" for network in nbd.networks)
    if not tls or facts.settings.nbd_tls == "ca" or _ref(facts, host) in facts.certificates:
        return ""
    if all(address in facts.nbd_addresses for address in host.addresses):
        return ""
    return str(facts.not_read(f"certificate of {host.name}"))


def _ref(facts: PoolFacts, host: NbdHost) -> str:
    return next(ref for ref, record in facts.of("host").items() if record["uuid"] == host.uuid)


def _nbd(facts: PoolFacts) -> PoolNbd:
    if facts.nbd is None:
        raise facts.not_read("networks")
    return facts.nbd
