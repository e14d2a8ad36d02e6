"""Permits in any order of events, beside the definition of who comes next, which looks at the whole line."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import redis
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.fleet_clock import Clock, lua_with_injected_time
from workers.fleet import Ledger, Step, Timing, scripts

TIMING = Timing()
Places = dict[str, int]
LIMITS = {"pool/lab": 3, "sr/a": 1, "sr/b": 2, "sr/c": 4, "host/h": 2, "host/i": 1}
VMS = 12


class Line:
    """Who has a permit and who waits, in order of arrival."""

    def __init__(self) -> None:
        self.called: dict[str, float] = {}
        """Until when it has time to begin."""
        self.held: set[str] = set()
        self.waiting: list[str] = []
        self.places: dict[str, Places] = {}

    def having(self) -> set[str]:
        return self.held | set(self.called)

    def leave(self, vm: str) -> None:
        self.called.pop(vm, None)
        self.held.discard(vm)
        if vm in self.waiting:
            self.waiting.remove(vm)

    def call(self, now: float) -> None:
        """Everybody that may go, in order; who may not keeps its place at its storages and nowhere else."""
        used = Counter(place for vm in self.having() for place in self.places[vm])
        for vm in list(self.waiting):
            may = all(used[place] < limit for place, limit in self.places[vm].items())
            used.update(place for place in self.places[vm] if may or place.startswith("sr/"))
            if may:
                self.waiting.remove(vm)
                self.called[vm] = now + TIMING.permit_wait


class PermitMachine(RuleBasedStateMachine):
    client: redis.Redis

    def __init__(self) -> None:
        super().__init__()
        self.client.flushall()
        self.clock = Clock(self.client)
        self.ledger = Ledger(self.client)
        self.ledger.found()
        self.ledger.create_run("run", b"")
        self.ledger.add_vms("run", {f"vm{number:02}": b"" for number in range(VMS)})
        self.line = Line()
        self.fences: dict[str, int] = {}

    def known(self) -> list[str]:
        return sorted(self.line.having()) + self.line.waiting

    def step(self, vm: str) -> Step:
        return Step("run", "plan-vm", vm)

    @precondition(lambda self: len(self.known()) < VMS)
    @rule(
        which=st.integers(0, VMS - 1),
        storages=st.sets(st.sampled_from(["sr/a", "sr/b", "sr/c"]), max_size=2),
        host=st.sampled_from(["host/h", "host/i", None]),
    )
    def ask(self, which: int, storages: set[str], host: str | None) -> None:
        free = [vm for vm in (f"vm{number:02}" for number in range(VMS)) if vm not in self.known()]
        vm = free[which % len(free)]
        places = {name: LIMITS[name] for name in {"pool/lab", *storages, *([host] if host else [])}}
        self.line.places[vm] = places
        self.line.waiting.append(vm)
        self.line.call(self.clock.now)
        self.do(vm, places)

    def do(self, vm: str, places: Places | None = None) -> None:
        """Its step is done: goes on, or waits."""
        if vm not in self.fences:
            fence = self.ledger.claim_step(self.step(vm), "scheduler")
            assert fence is not None
            self.fences[vm] = fence
        answer = self.ledger.take_permit(self.step(vm), "lab", places)
        assert answer == (vm in self.line.having())
        if answer:
            self.line.called.pop(vm, None)
            self.line.held.add(vm)
        else:
            assert self.ledger.put_off_step(self.step(vm), self.fences.pop(vm), 600)

    @precondition(lambda self: self.known())
    @rule(which=st.integers(0, 99))
    def do_again(self, which: int) -> None:
        self.do(self.known()[which % len(self.known())])

    @precondition(lambda self: self.line.called)
    @rule()
    def do_what_is_called(self) -> None:
        due = {step.subject for step in self.ledger.due_steps()}
        assert set(self.line.called) <= due | set(self.fences)
        for vm in list(self.line.called):
            self.do(vm)

    @precondition(lambda self: self.known())
    @rule(which=st.integers(0, 99))
    def end(self, which: int) -> None:
        """One that waits may end too: its run is cancelled."""
        self.finish(self.known()[which % len(self.known())])

    def finish(self, vm: str) -> None:
        if vm not in self.fences:
            self.do(vm)
        if vm not in self.fences:
            fence = self.ledger.claim_step(self.step(vm), "scheduler")
            assert fence is not None
            self.fences[vm] = fence
        self.line.leave(vm)
        self.line.call(self.clock.now)
        assert self.ledger.finish_step(self.step(vm), self.fences.pop(vm))
        self.client.zadd("cbtfleet:steps", {f"run/plan-vm/{vm}": 0})  # the VM comes again, as another one

    @rule(seconds=st.sampled_from([30, 50]))
    def wait(self, seconds: float) -> None:
        """Who is at work renews; who was called too long ago has lost its permit."""
        self.clock.advance(seconds)
        for vm in self.line.held:
            assert self.ledger.renew_step(self.step(vm), self.fences[vm])
        self.sweep()

    def sweep(self) -> None:
        self.ledger.sweep()
        for vm in [vm for vm, until in self.line.called.items() if until <= self.clock.now]:
            self.line.leave(vm)
        self.line.call(self.clock.now)

    @precondition(lambda self: self.line.held)
    @rule(which=st.integers(0, 99))
    def die(self, which: int) -> None:
        """A scheduler dies with one step, the others go on."""
        vm = sorted(self.line.held)[which % len(self.line.held)]
        self.fences.pop(vm)
        for _ in range(2):
            self.clock.advance(TIMING.step_lease / 2)
            for each in self.line.held - {vm}:
                assert self.ledger.renew_step(self.step(each), self.fences[each])
        self.line.leave(vm)
        self.sweep()

    @invariant()
    def everybody_is_where_the_definition_says(self) -> None:
        states = {
            vm: (self.client.hget(f"cbtfleet:permit:run/plan-vm/{vm}", "state") or b"").decode()
            for vm in (f"vm{number:02}" for number in range(VMS))
        }
        assert {vm for vm, state in states.items() if state == "held"} == self.line.held
        assert {vm for vm, state in states.items() if state == "called"} == set(self.line.called)
        waiting = {vm for vm, state in states.items() if state in ("waiting", "ready")}
        assert waiting == set(self.line.waiting)

    def teardown(self) -> None:
        """Everybody comes to its permit, and nothing is left."""
        for _ in range(2 * VMS):
            for vm in sorted(self.line.having()):
                self.finish(vm)
                self.everybody_is_where_the_definition_says()
        assert not self.known()
        assert self.client.keys("cbtfleet:permit*") in ([], [b"cbtfleet:permit-number"])


def test_any_order_of_events(
    redis_client: redis.Redis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scripts, "FOLDER", lua_with_injected_time(tmp_path))
    run_state_machine_as_test(
        type("Machine", (PermitMachine,), {"client": redis_client}),
        settings=settings(
            max_examples=50,
            stateful_step_count=40,
            deadline=None,
            derandomize=True,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
