"""A step whose lease ran out while it was done: another scheduler has it, and what is recorded is its.

The ledger is a real one. The pause that makes a lease run out is the ledger's record of it, set to the past.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis

from scheduler import steps
from scheduler.context import ControlContext
from scheduler.runs.values import VmFacts
from scheduler.steps import do_step
from tests.run_records import run_facts
from workers.errors import CbtfleetError
from workers.fleet import Ledger
from workers.fleet.keys import KEYS
from workers.messages import Step
from workers.repository import StoreUnavailable

PLAN_RUN, PLAN_VM = Step("run", "plan-run", ""), Step("run", "plan-vm", "vm")
FINISH_VM, END_RUN = Step("run", "finish-vm", "vm"), Step("run", "end-run", "")


@pytest.fixture
def ledger(redis_url: str) -> Iterator[Ledger]:
    ledger = Ledger.from_url(redis_url)
    ledger.found()
    ledger.create_run("run", run_facts().write())
    yield ledger
    ledger.close()


def lead_to(ledger: Ledger, step: Step) -> None:
    """The run as it is when this step becomes due."""
    if step == PLAN_RUN:
        return
    ledger.add_vms("run", {"vm": VmFacts("db").write()})
    if step in (FINISH_VM, END_RUN):
        ledger.start_vm("run", "vm", [])
    if step == END_RUN:
        ledger.finish_vm("run", "vm", VmFacts("db").write())


class PausedScheduler:
    """Does one step; in the middle of it its lease runs out and `other` takes the step."""

    def __init__(self, ledger: Ledger, client: redis.Redis, monkeypatch: pytest.MonkeyPatch) -> None:
        self._ledger = ledger
        self._client = client
        self._monkeypatch = monkeypatch
        self.tries = 0
        self.other: int | None = None

    def do(self, step: Step, end: BaseException | None) -> bool:
        def work(*_: object) -> None:
            self.tries += 1
            self._client.hset(KEYS["step"] + "/".join((step.run, step.name, step.subject)), "lease", 0)
            self.other = self._ledger.claim_step(step, "other")
            if end is not None:
                raise end

        self._monkeypatch.setattr(steps, step.name.replace("-", "_"), work)
        context = ControlContext(None, self._ledger, None, "paused")  # type: ignore[arg-type]
        return do_step(context, step)


@pytest.fixture
def paused(ledger: Ledger, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch) -> PausedScheduler:
    monkeypatch.setattr("scheduler.retry.PAUSES", (0.0, 0.0, 0.0))
    return PausedScheduler(ledger, redis_client, monkeypatch)


def all_of(client: redis.Redis) -> dict[bytes, Any]:
    """Everything that Redis knows, but for the time of a lease."""
    found: dict[bytes, Any] = {}
    for key in client.scan_iter():
        kind = client.type(key)
        read: dict[bytes, Callable[[Any], Any]] = {
            b"string": client.get,
            b"hash": lambda name: {k: v for k, v in client.hgetall(name).items() if k != b"lease"},
            b"list": lambda name: client.lrange(name, 0, -1),
            b"set": client.smembers,
            b"zset": lambda name: client.zrange(name, 0, -1),
        }
        found[key] = read[kind](key)
    return found


@pytest.mark.parametrize("step", [PLAN_RUN, PLAN_VM, FINISH_VM, END_RUN], ids=lambda step: step.name)
@pytest.mark.parametrize(
    "end", [None, CbtfleetError("it failed"), ValueError("unforeseen"), StoreUnavailable("away")], ids=repr
)
def test_nothing_is_recorded_of_it_and_nothing_finished(
    ledger: Ledger,
    redis_client: redis.Redis,
    paused: PausedScheduler,
    step: Step,
    end: BaseException | None,
) -> None:
    lead_to(ledger, step)
    seen: list[dict[bytes, Any]] = []
    claim = ledger.claim_step

    def claim_and_look(step: Step, owner: str) -> int | None:
        fence = claim(step, owner)
        if owner == "other":
            seen.append(all_of(redis_client))
        return fence

    ledger.claim_step = claim_and_look  # type: ignore[method-assign]
    paused.do(step, end)
    assert paused.tries == 1, "what is away is the other's to try again"
    assert paused.other is not None
    assert all_of(redis_client) == seen[0]
    assert ledger.finish_step(step, paused.other)
