"""Policies: which VMs, of which pool, when, and how long their restore points are kept.

Mechanism-free values: parsing and checking happens here, nothing is looked up.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import PurePath
from typing import Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from scheduler.policies.schedule import Schedule, check_expression, time_of_day, window_end
from workers.errors import ConfigurationError
from workers.settings import Settings


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Selector(_Strict):
    """VMs, or disks, by tag, by name (globs) or by uuid; one that matches any of them is meant."""

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

    @model_validator(mode="after")
    def _keeps_something(self) -> Keep:
        if not any(self.model_dump().values()):
            raise ValueError("keeps nothing; give last, daily, weekly, monthly or yearly a number")
        return self


class Window(_Strict):
    """When a scheduled run is stopped: at the first `end` (a time of day) after its slot."""

    end: str

    @field_validator("end")
    @classmethod
    def _is_time_of_day(cls, end: str) -> str:
        time_of_day(end)
        return end


class Hooks(_Strict):
    """Commands of the operator's, each a program and its arguments; no shell (docs/nights.md)."""

    before_snapshot: tuple[str, ...] = ()
    after_snapshot: tuple[str, ...] = ()
    after_run: tuple[str, ...] = ()
    timeout: float = Field(default=300.0, gt=0, le=3600)
    """Seconds each may take."""
    on_failure: Literal["skip", "continue"] = "skip"
    """What becomes of a VM whose `before_snapshot` failed: it is not backed up, or it is and that is said."""

    @field_validator("before_snapshot", "after_snapshot", "after_run", mode="before")
    @classmethod
    def _is_command(cls, command: object) -> object:
        if not isinstance(command, (list, tuple)) or not all(isinstance(word, str) for word in command):
            raise ValueError('must be a list of texts, like ["/usr/local/bin/freeze", "now"]')
        if not command or not command[0] or "\0" in "".join(command):
            raise ValueError("names no program")
        if "/" in command[0] and not PurePath(command[0]).is_absolute():
            raise ValueError("its program must be an absolute path, or a name on the PATH")
        return command


class Retry(_Strict):
    """When a disk is given up: after so many failed streams in a row, or so many seconds of trouble."""

    attempts: int = Field(default=5, ge=1)
    give_up_after: float = Field(default=3600.0, gt=0)


Untracked = Literal["full", "skip", "fail"]
"""What becomes of a disk whose changed blocks cannot be tracked: all of it is read every night, it is left
out with that reason, or it fails."""


class Policy(_Strict):
    pool: str
    include: Selector
    exclude: Selector = Selector()
    exclude_disks: Selector = Selector()
    without_tracking: Untracked = "full"
    schedule: str | None = None
    timezone: str = "UTC"
    window: Window | None = None
    keep: Keep | None = None
    hooks: Hooks = Hooks()
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
    def _is_cron_expression(cls, schedule: str | None) -> str | None:
        return None if schedule is None else check_expression(schedule)

    @field_validator("timezone")
    @classmethod
    def _known_zone(cls, name: str) -> str:
        try:
            ZoneInfo(name)
        except (ZoneInfoNotFoundError, ValueError) as error:
            raise ValueError(f'no time zone "{name}"; use a name like "Europe/London"') from error
        return name

    @model_validator(mode="after")
    def _windows_belong_to_schedules(self) -> Policy:
        if self.window is not None and self.schedule is None:
            raise ValueError("has a window and no schedule: only scheduled runs are stopped at its end")
        return self

    @property
    def zone(self) -> ZoneInfo:
        """Of its schedule, its window, and of the days, weeks and months of `keep`."""
        return ZoneInfo(self.timezone)

    @property
    def slots(self) -> Schedule | None:
        return None if self.schedule is None else Schedule(self.schedule, self.zone)

    def ends(self, slot: datetime) -> datetime | None:
        """When the run of this slot is stopped, in UTC; None: never."""
        return None if self.window is None else window_end(slot, time_of_day(self.window.end), self.zone)


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
