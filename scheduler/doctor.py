"""Looks at everything a backup needs, in the order in which one would set it up."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from scheduler.checks.check import Check, State, failed, ok, warning
from scheduler.checks.keys import check_keys
from scheduler.checks.pool import check_pool
from scheduler.checks.redis_server import check_redis
from scheduler.checks.slots import check_slots
from scheduler.checks.store import check_store
from scheduler.hooks import check_hooks
from scheduler.notifications import parse_notifications
from scheduler.policy import Policy, parse_policies
from workers.errors import CbtfleetError
from workers.settings import Settings


def examine(settings: Settings, settings_file: Path) -> Iterator[Check]:
    """Every Check, one after another as they are found. No foreign failure is raised."""
    yield from check_configuration(settings, settings_file)
    stored = check_store(settings.repository)
    yield from stored
    if all(check.state != "failed" for check in stored if check.name in ("store", "repository")):
        yield from check_keys(settings.repository)
    yield from check_redis(settings)
    yield from check_slots(settings)
    for name, pool in sorted(settings.pools.items()):
        yield from check_pool(name, pool)


def check_configuration(settings: Settings, settings_file: Path) -> list[Check]:
    try:
        policies = parse_policies(settings)
    except CbtfleetError as error:
        return [failed("configuration", str(error), f"correct it in {settings_file}")]
    where = str(settings_file) if settings_file.exists() else "the environment"
    said = f"{where}: {_count(settings.pools, 'pool')}, {_count(policies, 'policy', 'policies')}"
    if not settings.pools:
        return [warning("configuration", said, "add a [pools.NAME] where the scheduler and the workers run")]
    return [ok("configuration", said), *_check_for_nights(settings, policies)]


def _check_for_nights(settings: Settings, policies: Mapping[str, Policy]) -> list[Check]:
    """Hooks and notifications: what a scheduler that is started here would refuse."""
    try:
        check_hooks(policies)
        parse_notifications(settings)
    except CbtfleetError as error:
        todo = "correct it; if no scheduler runs on this machine, nothing is wrong"
        return [warning("nights", str(error), todo)]
    return []


def worst(checks: Sequence[Check]) -> State:
    states: list[State] = ["failed", "warning"]
    return next((state for state in states if any(check.state == state for check in checks)), "ok")


def _count(things: Mapping[str, Any], one: str, many: str | None = None) -> str:
    return f"{len(things)} {one if len(things) == 1 else many or one + 's'}"
