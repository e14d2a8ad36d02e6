"""What a run is asked to do, before anyone has looked at the pool."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from scheduler.policy import Policy, Retry, Selector, parse_policies
from workers.errors import ConfigurationError
from workers.settings import Settings


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

    def as_facts(self) -> dict[str, Any]:
        facts = asdict(self)
        facts["include"] = self.include.model_dump()
        facts["exclude"] = self.exclude.model_dump()
        facts["retry"] = self.retry.model_dump()
        return facts

    @classmethod
    def from_facts(cls, facts: dict[str, Any]) -> RunRequest:
        return cls(
            pool=facts["pool"],
            vms=tuple(facts["vms"]),
            policy=facts["policy"],
            include=Selector.model_validate(facts["include"]),
            exclude=Selector.model_validate(facts["exclude"]),
            weight=facts["weight"],
            # a run that an older version recorded has none
            retry=Retry.model_validate(facts.get("retry", {})),
        )


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
        weight=policy.weight,
        retry=policy.retry,
    )
