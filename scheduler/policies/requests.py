"""What a run is asked to do, before anyone has looked at the pool."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

from scheduler.policies.policy import Policy, Retry, Selector, Untracked, parse_policies
from workers.errors import ConfigurationError
from workers.settings import Settings


@dataclass(frozen=True)
class Trigger:
    """What began a run that nobody submitted: a slot of its policy's schedule. Times are ISO 8601 in UTC."""

    slot: str
    ends: str | None
    """When what is not finished is stopped; None: never."""
    shown_end: str | None
    """The same as the policy has it, `06:00 Europe/London`."""
    skipped: str | None = None
    """Why the run ends without having done anything."""

    def over(self, now: datetime) -> str | None:
        """The line about what is not finished at `now`, once the window is over."""
        if self.ends is None or now < datetime.fromisoformat(self.ends):
            return None
        return f"stopped at the window's end {self.shown_end}"

    def left(self, now: datetime) -> float | None:
        """Seconds until the window is over, not below 0; None: it has no end."""
        if self.ends is None:
            return None
        return max(0.0, (datetime.fromisoformat(self.ends) - now).total_seconds())


@dataclass(frozen=True)
class RunRequest:
    """Either the VMs named in `vms` (each must exist, names must be unique), or what a policy selects."""

    pool: str
    vms: tuple[str, ...] = ()
    policy: str | None = None
    include: Selector = field(default_factory=Selector)
    exclude: Selector = field(default_factory=Selector)
    weight: float = 1.0
    retry: Retry = field(default_factory=Retry)
    trigger: Trigger | None = None
    """None: a person began it, and nothing but a person stops it."""
    exclude_disks: Selector = field(default_factory=Selector)
    without_tracking: Untracked = "full"


def request_for_vms(settings: Settings, pool: str, vms: Sequence[str]) -> RunRequest:
    """A run over named VMs. Raises ConfigurationError for an unknown pool or an empty list."""
    settings.pool(pool)
    if not vms:
        raise ConfigurationError("name at least one VM: --vm NAME_OR_UUID")
    return RunRequest(pool=pool, vms=tuple(dict.fromkeys(vms)))


def request_from_policy(settings: Settings, name: str) -> RunRequest:
    """A run over what a policy selects. Raises ConfigurationError for an unknown policy."""
    policies: dict[str, Policy] = parse_policies(settings)
    if name not in policies:
        known = ", ".join(sorted(policies)) or "none"
        raise ConfigurationError(f'no policy "{name}" in the configuration; known: {known}')
    policy = policies[name]
    return RunRequest(
        pool=policy.pool,
        policy=name,
        include=policy.include,
        exclude=policy.exclude,
        exclude_disks=policy.exclude_disks,
        without_tracking=policy.without_tracking,
        weight=policy.weight,
        retry=policy.retry,
    )
