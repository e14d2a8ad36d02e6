"""A scheduler's desk without a pool: a real ledger and a real repository, and runs that end by a word."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from scheduler.context import ControlContext
from scheduler.finishing.steps import end_run
from scheduler.planning.steps import plan_run
from scheduler.policies.policy import parse_policies
from scheduler.runs.facts import keep_run_facts, open_run, result_in_ledger, run_facts
from scheduler.runs.triggers import Triggers
from scheduler.runs.values import OpenRun, RunFacts, RunResult
from workers.fleet import Ledger
from workers.repository import (
    DiskPoint,
    Point,
    Repository,
    create_repository,
    load_private_keys,
    open_store,
    point_id,
)
from workers.settings import Settings

NIGHTLY = {"pool": "lab", "include": {"names": ["*"]}, "schedule": "0 1 * * *", "timezone": "Europe/London"}
LONG_AGO = datetime(2000, 1, 1, tzinfo=UTC)


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


class Desk:
    def __init__(self, context: ControlContext, folder: Path) -> None:
        self.context = context
        self.folder = folder

    def nights(self, began: datetime = LONG_AGO) -> Triggers:
        """Of a scheduler that was started then."""
        return Triggers(self.context, parse_policies(self.context.settings), began)

    def runs(self) -> list[str]:
        return self.context.ledger.runs()

    def facts(self, run: str) -> RunFacts:
        return run_facts(self.context.ledger, run)

    def open(self, run: str) -> None:
        """Without VMs."""
        facts = self.facts(run)
        open_run(self.context.repository, run, OpenRun(facts.request, facts.started, {}))

    def end(self, run: str, error: str | None = None) -> RunResult:
        """Ends a run that has no VMs, or one that is skipped."""
        facts = self.facts(run)
        if facts.request.trigger is not None and facts.request.trigger.skipped:
            plan_run(self.context, run)
        else:
            keep_run_facts(self.context.ledger, run, replace(facts, error=error))
            self.open(run)
            self.context.ledger.add_vms(run, {})
        end_run(self.context, run)
        result = result_in_ledger(self.context.ledger, run)
        assert result is not None
        return result

    def commit(
        self, time: str, *disks: str, vm: str = "web", policy: str | None = "nightly", run: str | None = None
    ) -> Point:
        """A restore point with nothing in it."""
        run = run or f"{time.replace('-', '').replace(':', '')}Z-0a1b2c"
        rows = tuple(
            DiskPoint(disk, disk, "0", 1 << 20, f"snapshot-{disk}", "sr", "full", None, 0, 0, 0, ())
            for disk in disks or (f"{vm}-root",)
        )
        uuid = f"u-{vm}"
        point = Point(point_id(run, uuid), vm, uuid, f"{time}Z", run, "lab", rows, policy)
        self.context.repository.commit_point(point)
        return point

    def points(self) -> list[str]:
        return [point.time.removesuffix("Z") for point in self.context.repository.points()]


@contextmanager
def make_desk(folder: Path, redis_url: str, **sections: Any) -> Iterator[Desk]:
    """`sections` are those of the configuration; without any there is one policy, `nightly`."""
    settings = Settings.model_validate(
        {
            "redis": {"url": redis_url},
            "repository": {"url": f"file://{folder}/store"},
            "pools": {"lab": {"url": "https://127.0.0.1:1", "username": "root", "password": "x"}},
            "policies": {"nightly": NIGHTLY},
            **sections,
        }
    )
    (folder / "store").mkdir()
    store = open_store(settings.repository)
    create_repository(store, settings.repository, encrypted=False, passphrase=None)
    ledger = Ledger.from_url(redis_url)
    ledger.found()
    keys = load_private_keys(store, settings.repository, lambda: "")
    try:
        yield Desk(ControlContext(settings, ledger, Repository.open(store, keys), "desk"), folder)
    finally:
        ledger.close()
        store.close()
