"""The fleet: worker nodes, the barrier, the hosts' slots, and who else is connected to the hosts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from scheduler.checks.check import Check, Subject, counted
from scheduler.checks.ledger_facts import LedgerFacts
from scheduler.checks.pool import pool_subject
from scheduler.checks.pool_facts import PoolFacts
from scheduler.hosts.slot_report import is_closed, is_uncounted, troubles
from scheduler.pool_objects.ownership import tag_of
from workers.fleet.grants import MOST_CONNECTIONS

FLEET = Subject("fleet")


def check_slots(facts: LedgerFacts) -> list[Check]:
    """Stuck slots, and connections that nobody has any more."""
    found = []
    for host in facts.hosts:
        slots = facts.slots[host.pool, host.host]
        if any(slot.stuck for slot in slots) or host.unaccounted or is_closed(host) or is_uncounted(host):
            said = "; ".join(troubles(host, slots, host.host))
            todo = f"cbtfleet slots --pool {host.pool} --host {host.host}"
            found.append(FLEET.warning("slots", said, todo, host.host))
    if not found and facts.hosts:
        used = sum(host.used for host in facts.hosts)
        said = f"none is stuck; {used} in use on {len(facts.hosts)} known hosts"
        found.append(FLEET.ok("slots", said))
    return found


def check_fleet(facts: LedgerFacts) -> list[Check]:
    """Does anybody work, and may anything be granted?"""
    found = []
    if not facts.used_before:
        found.append(FLEET.ok("fleet.barrier", "cbtfleet was never at work with this Redis"))
    elif facts.barrier_left > 0:
        said = f"Redis is new or was restarted: nothing is granted for {facts.barrier_left:.0f} s more"
        found.append(FLEET.ok("fleet.barrier", said))
    working = [node for node in facts.nodes if not node.draining]
    if working:
        processes = sum(node.processes for node in working)
        said = f"{counted(len(working), 'worker node')} with {counted(processes, 'process', 'processes')}"
        found.append(FLEET.ok("fleet.nodes", f"{said}, {sum(node.busy for node in working)} busy"))
    else:
        said = "every worker node is stopping" if facts.nodes else "no worker node reports"
        todo = "start one before the next run: cbtfleet worker, or cbtfleet up"
        found.append(FLEET.warning("fleet.nodes", f"{said}: nothing would be read", todo))
    return found


@dataclass(frozen=True)
class Plugged:
    """What is plugged in to one host's control domain: each is one of its NBD connections."""

    ours: int
    others: int
    """Snapshots that are not ours: another backup's, as far as one can tell."""


def plugged_disks(facts: PoolFacts, repository_id: str | None) -> dict[str, Plugged]:
    """By host uuid. Without a repository nothing is ours. Raises NotRead."""
    domains = {
        ref: vm["resident_on"]
        for ref, vm in facts.of("VM").items()
        if vm["is_control_domain"] and "resident_on" in vm
    }
    counts = {host: [0, 0] for host in facts.of("host")}
    for vbd in facts.of("VBD").values():
        host = domains.get(vbd["VM"])
        disk = facts.of("VDI").get(vbd["VDI"])
        if host not in counts or vbd.get("empty") or disk is None:
            continue
        if repository_id is not None and tag_of(disk, repository_id) is not None:
            counts[host][0] += 1
        elif disk["is_a_snapshot"]:
            counts[host][1] += 1
    return {facts.of("host")[host]["uuid"]: Plugged(*count) for host, count in counts.items()}


def check_connections(
    facts: PoolFacts, plugged: Mapping[str, Plugged], ledger: LedgerFacts | None
) -> list[Check]:
    """Connections in use on each host by us, by others and by nobody any more."""
    subject, name = pool_subject(facts.name), "pool.connections"
    names = {host["uuid"]: str(host["name_label"]) for host in facts.of("host").values()}
    held = {host.host: host.used for host in ledger.hosts if host.pool == facts.name} if ledger else {}
    found = []
    for uuid, count in plugged.items():
        host = names[uuid]
        extra = count.ours - held.get(uuid, 0)
        if ledger is not None and extra > 0:
            said = f"{host}: {counted(extra, 'disk')} of ours plugged in that no stream holds"
            todo = "see cbtfleet cleanup --dry-run; when they stay, on that host: systemctl restart xapi-nbd"
            found.append(subject.warning(name, said, todo, host))
        room = MOST_CONNECTIONS - count.others
        if count.others and facts.settings.connections_per_host > room:
            said = f"{host}: others have {counted(count.others, 'connection')} of its {MOST_CONNECTIONS}"
            todo = f"let the others end, or set pools.{facts.name}.connections_per_host = {max(1, room)}"
            found.append(subject.warning(name, said, todo, host))
    if not found:
        ours, others = (
            sum(getattr(count, kind) for count in plugged.values()) for kind in ("ours", "others")
        )
        found.append(
            subject.ok(name, f"{ours} in use by us, {others} by others, on {counted(len(plugged), 'host')}")
        )
    return found
