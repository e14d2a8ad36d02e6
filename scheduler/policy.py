"""Policies: which VMs, of which pool, when, and how long their restore points are kept.

Mechanism-free values: parsing and checking happens here, nothing is looked up.
"""

from __future__ import annotations

from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from workers.errors import ConfigurationError
from workers.settings import Settings


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Selector(_Strict):
    """VMs by tag, by name (globs) or by uuid; a VM that matches any of them is meant."""

    tags: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    uuids: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.tags or self.names or self.uuids)


class Keep(_Strict):
    """How many restore points to keep of each kind."""

    last: int = Field(0, ge=0)
    daily: int = Field(0, ge=0)
    weekly: int = Field(0, ge=0)
    monthly: int = Field(0, ge=0)
    yearly: int = Field(0, ge=0)


class Retry(_Strict):
    """When a disk is given up: after so many failed streams in a row, or so many seconds of trouble."""

    attempts: int = Field(default=5, ge=1)
    give_up_after: float = Field(default=3600.0, gt=0)


class Policy(_Strict):
    pool: str
    include: Selector
    exclude: Selector = Selector()
    schedule: str | None = None
    timezone: str = "UTC"
    keep: Keep | None = None
    weight: float = Field(1.0, gt=0)
    retry: Retry = Retry()

    @field_validator("include")
    @classmethod
    def _includes_something(cls, selector: Selector) -> Selector:
        if not selector:
            raise ValueError("names no tags, names or uuids, so it would choose nothing")
        return selector

    @field_validator("schedule")
    @classmethod
    def _five_fields(cls, schedule: str | None) -> str | None:
        if schedule is not None and len(schedule.split()) != 5:
            raise ValueError('must have five fields, like "0 1 * * *"')
        return schedule

    @field_validator("timezone")
    @classmethod
    def _known_zone(cls, name: str) -> str:
        try:
            ZoneInfo(name)
        except (ZoneInfoNotFoundError, ValueError) as error:
            raise ValueError(f'no time zone "{name}"; use a name like "Europe/London"') from error
        return name


def parse_policies(settings: Settings) -> dict[str, Policy]:
    """Every policy of the configuration by name. Raises ConfigurationError that names policy and key."""
    policies = {}
    for name, tree in settings.policies.items():
        try:
            policy = Policy.model_validate(tree)
        except ValidationError as error:
            problem = error.errors(include_input=False, include_url=False)[0]
            where = ".".join(str(part) for part in ("policies", name, *problem["loc"]))
            if problem["type"] == "extra_forbidden":
                raise ConfigurationError(f"unknown key {where}") from error
            if problem["type"] == "missing":
                raise ConfigurationError(f"{where} is missing") from error
            raise ConfigurationError(f"{where}: {problem['msg'].removeprefix('Value error, ')}") from error
        settings.pool(policy.pool)
        policies[name] = policy
    return policies
