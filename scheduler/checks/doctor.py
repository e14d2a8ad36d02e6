"""Looks at everything a backup needs, in the order in which one would set it up.

store, Redis, ledger, repository, pools  --all at once, each with a deadline-->  what they told
what they told  -->  checks, each for itself: one that cannot look says so, the others are not concerned
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from scheduler.checks.attempt import Attempt, checks_of
from scheduler.checks.check import Check, State, Subject, counted
from scheduler.checks.drives import Chosen, choose
from scheduler.checks.keys import check_keys
from scheduler.checks.ledger_facts import LedgerFacts, read_ledger
from scheduler.checks.nbd import check_handshakes, check_networks, check_reach
from scheduler.checks.policy import (
    check_dates,
    check_overdue,
    check_schedule,
    check_vms,
    last_due,
    policy_subject,
)
from scheduler.checks.pool import (
    check_clock,
    check_entry,
    check_hosts,
    check_licence,
    check_version,
    pool_subject,
)
from scheduler.checks.pool_facts import NotRead, PoolFacts
from scheduler.checks.redis_server import REDIS, check_redis
from scheduler.checks.repository_facts import RepositoryFacts, closing_store, read_repository
from scheduler.checks.role import check_role
from scheduler.checks.slots import FLEET, Plugged, check_connections, check_fleet, check_slots, plugged_disks
from scheduler.checks.storage import check_storage
from scheduler.checks.store import STORE, check_store
from scheduler.checks.tonight import check_skipped, check_tonight, forecast
from scheduler.checks.worker_credentials import (
    Keeping,
    check_versioning,
    check_worker_credentials,
    read_keeping,
)
from scheduler.hooks import check_hooks
from scheduler.notifications import parse_notifications
from scheduler.policies.policy import Policy, parse_policies
from scheduler.runs.triggers import slot_run
from workers.errors import CbtfleetError, ConfigurationError
from workers.fleet import LedgerUnreachable
from workers.repository import StoreError
from workers.settings import RepositorySettings, Settings

log = logging.getLogger(__name__)

LOOK_SECONDS = 60.0
"""For each thing that is asked, all of them at once: beyond that a person had better look at it himself."""

CONFIGURATION = Subject("configuration")

T = TypeVar("T")


def examine(settings: Settings, settings_file: Path, *, all_of_them: bool = False) -> list[Check]:
    """Every Check, subject after subject. No foreign failure is raised.

    `all_of_them`: a line for each disk and VM, however many; else for a few of each kind.
    """
    store = Attempt(lambda: _look_at_store(settings.repository), LOOK_SECONDS)
    keeping = Attempt(lambda: read_keeping(settings.repository), LOOK_SECONDS)
    server = Attempt(lambda: check_redis(settings), LOOK_SECONDS)
    ledger = Attempt(lambda: read_ledger(settings), LOOK_SECONDS)
    repository = Attempt(lambda: read_repository(settings.repository), LOOK_SECONDS)
    pools = {name: PoolFacts(name, pool) for name, pool in sorted(settings.pools.items())}
    gathering = [Attempt(facts.gather, LOOK_SECONDS) for facts in pools.values()]

    found, policies = check_configuration(settings, settings_file)
    told, trouble = _told(ledger, LedgerUnreachable)
    found += checks_of(STORE, "store", store.result)
    found += look_at_keeping(_told(keeping, CbtfleetError)[0], told)
    found += checks_of(REDIS, "redis", server.result)
    if told is not None:
        found += checks_of(FLEET, "fleet.nodes", partial(check_fleet, told))
        found += checks_of(FLEET, "slots", partial(check_slots, told))
    elif trouble:
        found.append(FLEET.warning("fleet.nodes", f"not known: {trouble}", "look at Redis, then again"))
    kept, unread = _told(repository, ConfigurationError, StoreError)
    for each in gathering:
        _told(each)  # what came in time is in the facts
    with closing_store(kept):
        for name, facts in pools.items():
            of_pool = {each: policy for each, policy in policies.items() if policy.pool == name}
            found += look_at_pool(facts, of_pool, told, kept)
        for name, policy in policies.items():
            facts = pools[policy.pool]
            look = Attempt(
                partial(look_at_policy, name, policy, facts, kept, all_of_them, unread),
                LOOK_SECONDS,
            )
            found += checks_of(policy_subject(name), "policy.vms", look.result)
    return found


def check_configuration(settings: Settings, settings_file: Path) -> tuple[list[Check], dict[str, Policy]]:
    subject, name = CONFIGURATION, "configuration"
    try:
        policies = parse_policies(settings)
    except CbtfleetError as error:
        return [subject.failed(name, str(error), f"correct it in {settings_file}")], {}
    where = str(settings_file) if settings_file.exists() else "the environment"
    said = f"{where}: {counted(len(settings.pools), 'pool')}, {counted(len(policies), 'policy', 'policies')}"
    if not settings.pools:
        todo = "add a [pools.NAME] where the scheduler and the workers run"
        return [subject.warning(name, said, todo)], policies
    return [subject.ok(name, said), *_check_for_nights(settings, policies)], policies


def _check_for_nights(settings: Settings, policies: Mapping[str, Policy]) -> list[Check]:
    """Hooks and notifications: what a scheduler that is started here would refuse."""
    try:
        check_hooks(policies)
        parse_notifications(settings)
    except CbtfleetError as error:
        todo = "correct it; if no scheduler runs on this machine, nothing is wrong"
        return [CONFIGURATION.warning("nights", str(error), todo)]
    return []


def _look_at_store(settings: RepositorySettings) -> list[Check]:
    """And at the keys, when there is a repository that says whose they must be."""
    found = check_store(settings)
    if all(check.state != "failed" for check in found if check.name in ("store", "repository")):
        found += check_keys(settings)
    return found


def look_at_keeping(keeping: Keeping | None, ledger: LedgerFacts | None) -> list[Check]:
    """Of a bucket that answered; what is wrong with another one is said already."""
    if keeping is None:
        return []
    nodes = ledger.nodes if ledger is not None else ()
    return [check_versioning(STORE, keeping), check_worker_credentials(STORE, keeping, nodes)]


def look_at_pool(
    facts: PoolFacts, policies: Mapping[str, Policy], ledger: LedgerFacts | None, kept: RepositoryFacts | None
) -> list[Check]:
    """Every Check of one pool, whose facts are gathered; one only when we did not get in."""
    subject = pool_subject(facts.name)
    found = check_entry(facts)
    if not facts.master_address:
        return found
    for name, check in (
        ("pool.version", check_version),
        ("pool.hosts", check_hosts),
        ("pool.licence", check_licence),
        ("pool.role", check_role),
        ("pool.clock", check_clock),
        ("pool.networks", check_networks),
    ):
        found += checks_of(subject, name, partial(check, facts))
    try:
        plugged = plugged_disks(facts, kept.repository_id if kept else None)
    except NotRead:
        plugged = {}
    in_use = _in_use(facts, plugged, ledger)
    handshakes = checks_of(subject, "pool.handshake", partial(check_handshakes, facts, in_use))
    found += handshakes
    found += checks_of(
        subject, "pool.handshake", lambda: check_reach(facts, handshakes, _disks_of(policies, facts) or ())
    )
    if plugged:
        known = ledger if kept else None
        found += checks_of(subject, "pool.connections", partial(check_connections, facts, plugged, known))
    found += checks_of(subject, "pool.storage", lambda: check_storage(facts, _disks_of(policies, facts)))
    return found


def _in_use(facts: PoolFacts, plugged: Mapping[str, Plugged], ledger: LedgerFacts | None) -> dict[str, int]:
    """Connections by host uuid: as the pool shows them or as the ledger counts them, whichever is more."""
    hosts = ledger.hosts if ledger else ()
    used = {host.host: host.used + host.others for host in hosts if host.pool == facts.name}
    for uuid, count in plugged.items():
        used[uuid] = max(used.get(uuid, 0), count.ours + count.others)
    return used


def _disks_of(policies: Mapping[str, Policy], facts: PoolFacts) -> list[str] | None:
    """The VDI references behind the VMs of these policies; None: there is no policy to go by."""
    if not policies:
        return None
    return [
        disk for name, policy in policies.items() for vm in choose(name, policy, facts) for disk in vm.disks
    ]


def look_at_policy(
    name: str,
    policy: Policy,
    facts: PoolFacts,
    kept: RepositoryFacts | None,
    all_of_them: bool,
    unread: str = "",
) -> list[Check]:
    """Every Check of one policy; of a pool that did not let us in, and without a repository, but a few.

    `unread`: why there are no facts of the repository, where no other check says so.
    """
    subject = policy_subject(name)
    now = datetime.now(UTC)
    found = checks_of(subject, "policy.schedule", partial(check_schedule, name, policy, now))
    if not facts.master_address:
        return found
    try:
        chosen = choose(name, policy, facts)
    except NotRead as error:
        return [*found, *checks_of(subject, "policy.vms", partial(_fail, error))]
    found += check_vms(name, chosen)
    if kept is None:
        if unread:
            todo = "look at the store, then again"
            found.append(subject.warning("policy.tonight", f"not known: {unread}", todo))
        return found
    found += checks_of(
        subject, "policy.tonight", lambda: _tonight(name, policy, chosen, facts, kept, all_of_them)
    )
    due = last_due(name, policy, kept.runs, kept.open_runs, now)
    began = due is not None and slot_run(name, due) in kept.runs
    overdue = partial(
        check_overdue, name, policy, chosen, kept.points, due, began=began, all_of_them=all_of_them, now=now
    )
    return found + checks_of(subject, "policy.overdue", overdue)


def _tonight(
    name: str,
    policy: Policy,
    chosen: Sequence[Chosen],
    facts: PoolFacts,
    kept: RepositoryFacts,
    all_of_them: bool,
) -> list[Check]:
    newest = list(kept.last_disks(chosen))
    found = forecast(facts, policy.without_tracking, newest)
    return [
        *check_tonight(name, found, all_of_them=all_of_them),
        *check_dates(name, newest, datetime.now(UTC)),
        *check_skipped(name, chosen, all_of_them=all_of_them),
    ]


def _fail(error: CbtfleetError) -> Any:
    raise error


def _told(attempt: Attempt[T], *said_elsewhere: type[CbtfleetError]) -> tuple[T | None, str]:
    """What came of it, or None and why; "" for what the check of that very thing says anyway."""
    try:
        return attempt.result(), ""
    except said_elsewhere:
        return None, ""
    except CbtfleetError as error:
        return None, str(error)
    except Exception as error:
        log.debug("unexpected", exc_info=True)
        return None, f"unexpected {type(error).__name__}"


def worst(checks: Sequence[Check]) -> State:
    states: list[State] = ["failed", "warning"]
    return next((state for state in states if any(check.state == state for check in checks)), "ok")
