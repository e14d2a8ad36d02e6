"""A pool: do we get in, who belongs to it, what may its licence and our user do, is its clock right."""

from __future__ import annotations

from scheduler.checks.check import Check, Subject, counted
from scheduler.checks.clock import clock_check
from scheduler.checks.pool_facts import PoolFacts
from workers.errors import CbtfleetError
from workers.xenapi import LoginRefused, PoolUnreachable, PoolUntrusted


def pool_subject(name: str) -> Subject:
    return Subject(f"pool {name}")


def check_entry(facts: PoolFacts) -> list[Check]:
    """Whether we got in, and whom we trusted."""
    subject = pool_subject(facts.name)
    if facts.refused is not None:
        return [subject.failed("pool.reachable", str(facts.refused), _advice(facts.refused))]
    if not facts.master_address:
        said = "the login did not come to its end in time"
        return [
            subject.failed("pool.reachable", said, "look whether its master is well, and its XAPI answers")
        ]
    found = [subject.ok("pool.reachable", f"logged in at its master, {facts.master_address}")]
    if facts.settings.url.startswith("http://"):
        said = "the url is http: the password crosses the network readable"
        found.append(subject.failed("pool.tls", said, "use https"))
    elif not facts.settings.verify_tls and not facts.settings.certificate_sha256:
        said = "verify_tls is off: anybody may answer"
        found.append(subject.warning("pool.tls", said, "set ca_file or certificate_sha256"))
    return found


def _advice(error: CbtfleetError) -> str:
    if isinstance(error, PoolUntrusted):
        return "set ca_file, or certificate_sha256 as read on the host itself"
    if isinstance(error, LoginRefused):
        return "check username and password_file"
    if isinstance(error, PoolUnreachable):
        return "check the pool's url, its firewall, and that its master is up"
    return "look at the pool's configuration"


def check_version(facts: PoolFacts) -> list[Check]:
    subject = pool_subject(facts.name)
    versions: dict[str, list[str]] = {}
    for host in facts.of("host").values():
        software = host.get("software_version", {})
        brand = software.get("product_brand", "XAPI")
        version = software.get("product_version") or software.get("xapi") or "of an unknown version"
        versions.setdefault(f"{brand} {version}", []).append(host["name_label"])
    if len(versions) == 1:
        return [subject.ok("pool.version", next(iter(versions)))]
    said = "; ".join(
        f"{version} on {', '.join(sorted(hosts))}" for version, hosts in sorted(versions.items())
    )
    todo = "end the upgrade: while it goes on XAPI refuses everything about changed blocks"
    return [subject.warning("pool.version", f"not the same on all hosts: {said}", todo)]


def check_hosts(facts: PoolFacts) -> list[Check]:
    """Which members are live and enabled."""
    subject = pool_subject(facts.name)
    found = []
    good = []
    for ref, host in sorted(facts.of("host").items(), key=lambda item: str(item[1]["name_label"])):
        name = host["name_label"]
        if not facts.is_live(ref):
            todo = f"start it, or forget it: xe host-forget uuid={host['uuid']}"
            found.append(subject.warning("pool.hosts", f"{name} is offline", todo, name))
        elif not host.get("enabled", True):
            said = f"{name} is disabled, as for maintenance; disks are read from the other hosts"
            found.append(subject.warning("pool.hosts", said, f"xe host-enable uuid={host['uuid']}", name))
        else:
            good.append(name)
    total = len(facts.of("host"))
    if good:
        found.insert(0, subject.ok("pool.hosts", f"{len(good)} of {counted(total, 'host')} live and enabled"))
    return found


def check_licence(facts: PoolFacts) -> list[Check]:
    subject = pool_subject(facts.name)
    for pool in facts.of("pool").values():
        if pool.get("restrictions", {}).get("restrict_cbt") == "true":
            said = "does not include changed block tracking: every backup reads everything"
            todo = "license the pool for changed block tracking"
            return [subject.warning("pool.licence", said, todo)]
    return [subject.ok("pool.licence", "includes changed block tracking")]


def check_clock(facts: PoolFacts) -> list[Check]:
    subject = pool_subject(facts.name)
    if facts.ahead is None:
        said = facts.failures.get("clock", "it tells no time that we could read")
        return [subject.warning("pool.clock", said, "look at the clock of its master")]
    return [clock_check(subject, "pool.clock", facts.ahead)]
