"""`cbtfleet forget`: drops restore points, by the policies' `keep` or by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated

import typer
from rich.console import Console

from scheduler.commands.damage import damage_document, show_damage
from scheduler.commands.invocation import FAILED, ConfigOption, Invocation, JsonOption, end
from scheduler.connections import open_repository
from scheduler.finishing.forgetting import OnDamage, decide_by_policy, find_named
from scheduler.finishing.forgetting import forget as forget_points
from scheduler.policies.policy import Policy, parse_policies
from scheduler.policies.retention import Decision
from scheduler.terminal.tables import TextTable
from workers.errors import CbtfleetError, ConfigurationError
from workers.repository import Point, Repository
from workers.settings import Settings


def forget(
    context: typer.Context,
    points: Annotated[
        list[str] | None, typer.Argument(metavar="[POINT ...]", help="Points by id; default: by policy.")
    ] = None,
    policy: Annotated[
        str | None,
        typer.Option("--policy", metavar="NAME", help="By this policy's keep; default: all that have one."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would be forgotten.")] = False,
    even_last: Annotated[
        bool, typer.Option("--even-last", help="Also named points that are the newest of a disk.")
    ] = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Forget restore points: those that no rule of their policy keeps, or those named.

    The data they leave behind stays in the store until it is pruned.
    """
    invocation = Invocation.of(context, config, as_json)
    settings = invocation.settings()
    if points and policy is not None:
        raise ConfigurationError("give either points or --policy, not both")
    if even_last and not points:
        raise ConfigurationError("--even-last is for points that are named: a policy never forgets these")
    chosen = {} if points else _chosen(settings, policy)
    with open_repository(settings) as repository:
        damaged: list[CbtfleetError] = []
        decisions = _decisions(repository, chosen, points or [], even_last, damaged.append)
        if not dry_run:
            forget_points(repository, [decision.point for decision in decisions if not decision.kept_by])
    invocation.answer(
        {
            "dry_run": dry_run,
            "forgotten": [_describe(each.point) for each in decisions if not each.kept_by],
            "kept": [
                {**_describe(each.point), "kept_by": list(each.kept_by)} for each in decisions if each.kept_by
            ],
            **damage_document(damaged),
        },
        lambda console: _show(console, decisions, dry_run, damaged),
    )
    if damaged:
        end(FAILED)


def _chosen(settings: Settings, name: str | None) -> dict[str, Policy]:
    """The policies whose `keep` is to be applied. Raises ConfigurationError."""
    policies = parse_policies(settings)
    if name is None:
        with_keep = {each: policy for each, policy in policies.items() if policy.keep is not None}
        if not with_keep:
            raise ConfigurationError("nothing says what to forget: name points, or give a policy a keep")
        return with_keep
    if name not in policies:
        known = ", ".join(sorted(policies)) or "none"
        raise ConfigurationError(f'no policy "{name}" in the configuration; known: {known}')
    return {name: policies[name]}


def _decisions(
    repository: Repository,
    policies: dict[str, Policy],
    points: Sequence[str],
    even_last: bool,
    on_damage: OnDamage,
) -> list[Decision]:
    if points:
        named = find_named(repository, points, even_last=even_last, on_damage=on_damage)
        return [Decision(point, ()) for point in named]
    found = []
    for name, policy in policies.items():
        found += decide_by_policy(repository, name, policy, on_damage=on_damage)
    return found


def _describe(point: Point) -> Mapping[str, object]:
    return {
        "id": point.id,
        "vm": point.vm,
        "vm_uuid": point.vm_uuid,
        "time": point.time,
        "policy": point.policy,
    }


def _show(
    console: Console, decisions: Sequence[Decision], dry_run: bool, damaged: Sequence[CbtfleetError]
) -> None:
    _show_decisions(console, decisions, dry_run)
    show_damage(console, damaged)


def _show_decisions(console: Console, decisions: Sequence[Decision], dry_run: bool) -> None:
    if not decisions:
        console.print("No restore point of these policies yet.")
        return
    fate = "would be forgotten" if dry_run else "forgotten"
    table = TextTable("point", "time", "VM", "policy", "kept by")
    for each in decisions:
        point = each.point
        reasons = ", ".join(each.kept_by) or f"- {fate}"
        table.add_row(point.id, point.time, point.vm, point.policy or "-", reasons)
    console.print(str(table), markup=False)
    gone = sum(not each.kept_by for each in decisions)
    console.print(f"{gone} {fate}, {len(decisions) - gone} kept.")
    if gone and not dry_run:
        console.print("Their data stays in the store until it is pruned.")
