"""One schedule from beginning to end: servers and fleet start, runs are disturbed, all heals, all must end.

start -> [ guests write -> submit -> faults -> heal -> the run ends by itself within BOUND ] for each run
      -> the pool is clean within CLEAN_BOUND -> SIGTERM: every process ends within END_BOUND -> judge
"""

from __future__ import annotations

import heapq
import itertools
import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import redis

from scheduler.policies.requests import request_from_policy
from scheduler.runs.facts import result_of
from scheduler.runs.submit import submit_run
from scheduler.runs.values import RunResult
from tests.faults.deeds import Deeds
from tests.faults.fleet import PASSPHRASE, POLICY, Fleet, configuration
from tests.faults.plan import Deed, Schedule
from tests.faults.samples import Sampler
from tests.faults.servers import BucketStore, FolderStore, Pool, RedisServer
from workers.errors import CbtfleetError
from workers.fleet import Ledger
from workers.repository import PrivateKeys, Repository, Store, StoreError, load_private_keys, open_store
from workers.settings import Settings, load_settings

BOUND = 120.0
"""Seconds after the last fault was undone in which a run must have ended."""

CLEAN_BOUND = 20.0
END_BOUND = 20.0
"""Seconds from SIGTERM to the end, for a process that has nothing left to do."""

START_BOUND = 60.0


class Stuck(Exception):
    """Something did not come to its end by itself."""


@dataclass
class Ran:
    """One run as it went: what was written to each disk before it, and what the repository says came out."""

    run: str
    written: dict[str, set[int]]
    result: RunResult
    seconds: float
    after_heal: float


@dataclass
class Evidence:
    """All that the judge needs, collected while everything still ran."""

    schedule: Schedule
    folder: Path
    pool_facts: dict[str, Any] = field(default_factory=dict)
    runs: list[Ran] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    """The kinds that really struck."""
    log: dict[str, Any] = field(default_factory=dict)
    leftovers: dict[str, Any] = field(default_factory=dict)
    stuck: list[str] = field(default_factory=list)
    spilt: set[str] = field(default_factory=set)
    """Secrets that were found in a log or in Redis, by what they are."""
    lost_early: int = 0
    """Runs that Redis forgot before the repository knew of them; they were submitted again."""
    longest_rest: float = 0.0


Judge = Callable[[Evidence, Store, PrivateKeys, Repository, Pool], None]


class Course:
    def __init__(self, schedule: Schedule, folder: Path) -> None:
        self.schedule = schedule
        self.folder = folder
        self.evidence = Evidence(schedule, folder)
        self._agenda: list[tuple[float, int, str, Callable[[], object]]] = []
        self._number = itertools.count()
        self._lock = threading.Lock()
        self._began = time.monotonic()

    # the timeline

    def note(self, words: str) -> None:
        with (self.folder / "timeline.txt").open("a") as timeline:
            timeline.write(f"{time.monotonic() - self._began:7.2f} {words}\n")

    def later(self, seconds: float, words: str, act: Callable[[], object]) -> None:
        with self._lock:
            heapq.heappush(self._agenda, (time.monotonic() + seconds, next(self._number), words, act))

    def _work_off(self, *, all_of_it: bool = False) -> None:
        while True:
            with self._lock:
                if not self._agenda or (not all_of_it and self._agenda[0][0] > time.monotonic()):
                    return
                _, _, words, act = heapq.heappop(self._agenda)
            self.note(f"  {words}")
            try:
                act()
            except (OSError, redis.RedisError) as error:
                self.note(f"  ... failed: {type(error).__name__}")

    # the course

    def run(self, judge: Judge) -> None:
        """`judge` looks at the evidence while pool and store still run."""
        with ExitStack() as stack:
            fleet = self._start(stack)
            with self._reading(fleet) as (settings, store, keys, repository):
                deeds = Deeds(fleet, self.later)
                sampler = stack.enter_context(Sampler.start(settings, fleet))
                pending: dict[str, set[int]] = {vdi: set() for vdi in disks_of(fleet.pool)}
                try:
                    for number in range(len(self.schedule.runs)):
                        self._one_run(fleet, settings, repository, deeds, number, pending)
                    self._await_clean(fleet)
                    self._end(fleet)
                except Stuck as stuck:
                    self.note(f"STUCK: {stuck}")
                    self.evidence.stuck.append(str(stuck))
                sampler.stop()
                self.evidence.spilt |= sampler.spilt
                self.evidence.log = fleet.pool.get("/log")
                self.evidence.longest_rest = sampler.longest_rest(self.evidence.log["connections"])
                self.evidence.leftovers = fleet.pool.get("/leftovers")
                judge(self.evidence, store, keys, repository, fleet.pool)

    def _start(self, stack: ExitStack) -> Fleet:
        schedule, folder = self.schedule, self.folder
        self.note(f"seed {schedule.seed}: {schedule}")
        redis_server = RedisServer(folder / "redis", schedule.redis)
        stack.callback(redis_server.stop)
        redis_server.start()
        pool = Pool(
            folder / "pool",
            *("--hosts", str(schedule.hosts), "--vms", "0", "--seed", str(schedule.seed), "--local-srs"),
            *("--connection-limit", str(schedule.limit), "--plug-delay", str(schedule.plug_delay)),
            *("--slot-release-delay", str(schedule.release_delay), "--login-failure-delay", "0.5"),
        )
        stack.callback(pool.stop)
        for vm in schedule.vms:
            disks = [
                {"size": disk.size, "fill": disk.fill, "sr": "local" if vm.local else "shared"}
                for disk in vm.disks
            ]
            pool.post("/vms", name=vm.name, disks=disks, host=vm.host)
        pool.facts = {**pool.facts, "vms": pool.get("/pool")["vms"]}
        self.evidence.pool_facts = pool.facts
        store = FolderStore(folder) if schedule.store == "file" else BucketStore(folder)
        stack.callback(store.stop)
        os.environ.update(store.environment)
        fleet = Fleet(schedule, folder, pool, redis_server, store, self._began)
        stack.callback(fleet.kill_all)
        fleet.config.write_text(configuration(schedule, folder, pool, redis_server, store.settings))
        own = configuration(schedule, folder, pool, redis_server, store.own_settings)
        (folder / "driver.toml").write_text(own)
        done = fleet.command("init", *([] if schedule.encrypted else ["--unencrypted"]))
        if done.returncode:
            raise Stuck(f"cbtfleet init: {done.stderr}")
        for _ in range(schedule.schedulers):
            fleet.start("scheduler")
        for _ in range(schedule.nodes):
            fleet.start("worker")
        self._await_nodes(fleet)
        return fleet

    @contextmanager
    def _reading(self, fleet: Fleet) -> Iterator[tuple[Settings, Store, PrivateKeys, Repository]]:
        settings = load_settings(self.folder / "driver.toml", {})
        with closing(open_store(settings.repository)) as store:
            keys = load_private_keys(store, settings.repository, lambda: PASSPHRASE)
            yield settings, store, keys, Repository.open(store, keys)

    def _await_nodes(self, fleet: Fleet) -> None:
        deadline = time.monotonic() + START_BOUND
        settings = load_settings(self.folder / "driver.toml", {})
        with closing(Ledger.open(settings)) as ledger:
            while len(ledger.nodes()) < self.schedule.nodes:
                if time.monotonic() > deadline:
                    raise Stuck("the worker nodes did not report")
                time.sleep(0.1)
        self.note("the fleet is up")

    def _one_run(
        self,
        fleet: Fleet,
        settings: Settings,
        repository: Repository,
        deeds: Deeds,
        number: int,
        pending: dict[str, set[int]],
    ) -> None:
        plan = self.schedule.runs[number]
        self._guests_write(fleet, number, pending)
        deeds.slow = plan.slow
        deeds.reset_slow()
        run = self._submit(settings)
        began = time.monotonic()
        deeds.run = run
        for deed in plan.deeds:
            self.later(deed.at, f"do: {deed.kind}", partial(self._do, deeds, deed))
        last = max((deed.at for deed in plan.deeds), default=0.0)
        healed: float | None = None
        while True:
            self._work_off()
            result = _result(repository, run)
            if result is not None and time.monotonic() - began > 1.0:
                break
            quiet = time.monotonic() - began > last and not self._agenda
            if quiet and healed is None:
                self._heal(fleet, deeds)
                healed = time.monotonic()
            if healed is not None and time.monotonic() - healed > BOUND:
                raise Stuck(f"run {run} did not end within {BOUND:.0f} s after all faults were over")
            run = self._submit_again(settings, repository, run) or run
            deeds.run = run
            time.sleep(0.1)
        ended = time.monotonic()
        self.note(f"run {run} ended: {result.status}")
        with self._lock:  # faults that the run has escaped
            self._agenda = [entry for entry in self._agenda if not entry[2].startswith("do: ")]
            heapq.heapify(self._agenda)
        self._heal(fleet, deeds)
        self.evidence.runs.append(
            Ran(run, {vdi: set(blocks) for vdi, blocks in pending.items()}, result, round(ended - began, 1),
                round(ended - healed, 1) if healed else 0.0)
        )  # fmt: skip
        for row in result.disks:
            if row.vdi and row.point:
                pending[row.vdi].clear()

    def _do(self, deeds: Deeds, deed: Deed) -> None:
        struck = deeds.do(deed.kind, random.Random(deed.dice))
        if struck is None:
            self.note("  ... nobody to strike")
            return
        self.note(f"  ... {struck}")
        self.evidence.faults.append(deed.kind)

    def _guests_write(self, fleet: Fleet, number: int, pending: dict[str, set[int]]) -> None:
        blocks = self.schedule.runs[number].writes
        for place, vdi in enumerate(disks_of(fleet.pool)) if blocks else ():
            kind = ("random", "text", "zero")[(place + number) % 3]
            order = {"seed": self.schedule.seed * 100 + number * 10 + place, "blocks": blocks, "kind": kind}
            pending[vdi].update(fleet.pool.post("/write", vdi=vdi, random=order)["blocks"])

    def _submit(self, settings: Settings) -> str:
        deadline = time.monotonic() + START_BOUND
        while True:
            try:
                with closing(Ledger.open(settings)) as ledger:
                    run = submit_run(ledger, request_from_policy(settings, POLICY))
                self.note(f"run {run} submitted")
                return run
            except CbtfleetError as error:
                if time.monotonic() > deadline:
                    raise Stuck(f"nothing could be submitted: {error}") from error
                time.sleep(0.2)

    def _submit_again(self, settings: Settings, repository: Repository, run: str) -> str | None:
        """A run that Redis forgot before anything was stored of it is nobody's fault but Redis's."""
        if "empty Redis" not in self.evidence.faults:
            return None
        try:
            with closing(Ledger.open(settings)) as ledger:
                if run in ledger.runs() or repository.run_is_open(run) or repository.result(run):
                    return None
        except CbtfleetError:
            return None
        self.note(f"run {run} was forgotten before it was recorded")
        self.evidence.lost_early += 1
        return self._submit(settings)

    def _heal(self, fleet: Fleet, deeds: Deeds) -> None:
        """Ends every fault that is still going on, and makes the fleet whole again."""
        self._work_off(all_of_it=True)
        fleet.redis.ensure()
        fleet.store.come_back()
        for kind, wanted in (("scheduler", 1), ("worker", self.schedule.nodes)):
            while len(fleet.of(kind)) < wanted:
                self.note(f"a new {kind}: {fleet.start(kind).name}")
        fleet.pool.post("/fault/clear")
        deeds.slow_down()
        self.note("all faults are over")

    def _await_clean(self, fleet: Fleet) -> None:
        deadline = time.monotonic() + CLEAN_BOUND
        while time.monotonic() < deadline and fleet.pool.get("/leftovers")["plugged_vbds"]:
            time.sleep(0.2)

    def _end(self, fleet: Fleet) -> None:
        for kind in ("worker", "scheduler"):
            for member in fleet.of(kind):
                fleet.ask_to_end(member)
        deadline = time.monotonic() + END_BOUND
        while (left := [m for m in fleet.members if m.alive or m.remains()]) and time.monotonic() < deadline:
            time.sleep(0.1)
        for member in left:
            raise Stuck(
                f"{member.name} did not end within {END_BOUND:.0f} s: {len(member.remains())} processes left"
            )
        self.note("every process has ended")


def disks_of(pool: Pool) -> list[str]:
    return [disk["vdi"] for vm in pool.facts["vms"] for disk in vm["disks"]]


def _result(repository: Repository, run: str) -> RunResult | None:
    with suppress(StoreError):
        return result_of(repository, run)
    return None
