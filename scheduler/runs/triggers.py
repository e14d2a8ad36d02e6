"""Policies and their schedules: runs that are due are begun, and those whose window is over are stopped.

Any number of schedulers may do this. A slot's run has a name that follows from policy and slot, and the
ledger takes a name once; which slots were run is read from the names in the ledger and in the repository, so
it outlives Redis and every machine.

    slot is due --> skipped: the last run still goes on, or the window is over   -> a run that ends at once
               \\--> begun, late after a downtime                                 -> a run; stopped at its end
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from scheduler.background_loop import BackgroundLoop
from scheduler.context import ControlContext
from scheduler.policies.policy import Policy
from scheduler.policies.requests import Trigger, request_from_policy
from scheduler.policies.schedule import due
from scheduler.runs.facts import create_run, opened_run, run_facts
from scheduler.runs.values import RunFacts
from workers.errors import CbtfleetError
from workers.fleet import UnknownToLedger
from workers.records import RecordUnreadable
from workers.repository import DamagedObject

log = logging.getLogger(__name__)

LOOK_EVERY = 5.0
"""Seconds between two looks at the clock, also after a failure: a run may begin and end so much late, and one
policy in trouble makes no other late."""

_LATE = timedelta(minutes=2)
_SLOT_RUN = re.compile(r"(\d{8}T\d{6}Z)-([0-9a-f]{8})")
_FORM = "%Y%m%dT%H%M%SZ"


def slot_run(policy: str, slot: datetime) -> str:
    """The run of this policy's slot: `20261122T010000Z-5be41f0a`, the same whoever asks."""
    time = f"{slot.astimezone(UTC):{_FORM}}"
    return f"{time}-{hashlib.sha256(f'{time} {policy}'.encode()).hexdigest()[:8]}"


def newest_slot(policy: str, runs: Iterable[str], now: datetime) -> datetime | None:
    """The newest slot of the policy among the names of runs, up to `now`: one of a clock that once was far
    ahead must not keep the policy from running until then."""
    slots = []
    for run in runs:
        if match := _SLOT_RUN.fullmatch(run):
            slot = datetime.strptime(match[1], _FORM).replace(tzinfo=UTC)
            if slot <= now and slot_run(policy, slot) == run:
                slots.append(slot)
    return max(slots, default=None)


class Triggers(BackgroundLoop):
    """Begins what is due, and stops what is over."""

    def __init__(self, context: ControlContext, policies: Mapping[str, Policy], began: datetime) -> None:
        """`began`: slots before that are made up for only if the policy was run before."""
        super().__init__(
            "triggers", "looking for due runs", pause=LOOK_EVERY, back_off=(LOOK_EVERY, LOOK_EVERY)
        )
        self._context = context
        self._policies = {name: policy for name, policy in policies.items() if policy.slots is not None}
        self._began = began
        self._announced = False
        self._settled: dict[str, datetime] = {}
        self._endless: set[str] = set()
        """Runs that have ended or have no window: ended ones stay in the ledger for a week."""

    def round(self) -> None:
        now = datetime.now(UTC)
        if not self._announced:
            self._announced = True
            self._announce(now)
        self.look(now)

    def look(self, now: datetime) -> None:
        """Does what is due at `now`, each policy whatever becomes of the others."""
        for name, policy in self._policies.items():
            with self.trying(f"looking after policy {name}"):
                self._begin(name, policy, now)
        with self.trying("looking for the ends of windows"):
            self._stop_at_the_end_of_windows(now)

    def _announce(self, now: datetime) -> None:
        for name, policy in self._policies.items():
            following = policy.slots.next(now) if policy.slots else None
            if following is not None:
                log.info("policy %s: its next run is due at %s", name, _local(following, policy))

    def _begin(self, name: str, policy: Policy, now: datetime) -> None:
        assert policy.slots is not None  # kept by __init__
        latest = policy.slots.latest(now)
        if latest is None or self._settled.get(name) == latest:
            return
        known = {*self._context.repository.run_names(), *self._context.ledger.runs()}
        slot = due(policy.slots, newest_slot(name, known, now), self._began, now)
        if slot is not None:
            self._create(name, policy, slot, now)
        self._settled[name] = latest

    def _create(self, name: str, policy: Policy, slot: datetime, now: datetime) -> None:
        ends = policy.ends(slot)
        shown = f"{policy.window.end} {policy.timezone}" if policy.window is not None else None
        skipped = None
        if ends is not None and now >= ends:
            skipped = f"no scheduler began it before the end of its window, {shown}"
        elif (going := self._run_going_on(name, now)) is not None:
            skipped = f"run {going} of the same policy was still going"
        trigger = Trigger(_iso(slot), None if ends is None else _iso(ends), shown, skipped)
        request = replace(request_from_policy(self._context.settings, name), trigger=trigger)
        run = slot_run(name, slot)
        facts = RunFacts(request, started=_iso(now))
        if not create_run(self._context.ledger, run, facts, self._context.repository.sign_order):
            return  # another scheduler was first
        if skipped is not None:
            log.warning("policy %s: its run of %s is skipped: %s", name, _local(slot, policy), skipped)
        elif now - slot >= _LATE:
            late = str(timedelta(seconds=round((now - slot).total_seconds())))
            log.warning(
                "policy %s: run %s of %s begins %s late: no scheduler could begin it in time",
                name,
                run,
                _local(slot, policy),
                late,
            )
        else:
            log.info("policy %s: run %s begins", name, run)

    def _run_going_on(self, policy: str, now: datetime) -> str | None:
        """A run of the policy that has not ended, also one that Redis has forgotten."""
        ledger, repository = self._context.ledger, self._context.repository
        in_ledger = ledger.run_states()
        for run, state in sorted(in_ledger.items()):
            if state != "ended" and self._is_of(policy, run, now):
                return run
        for run in repository.open_runs():
            try:
                opened = None if run in in_ledger else opened_run(repository, run)
            except (RecordUnreadable, DamagedObject):
                continue  # nobody can resume it
            if opened is not None and opened.request.policy == policy:
                return run
        return None

    def _is_of(self, policy: str, run: str, now: datetime) -> bool:
        try:
            return run_facts(self._context.ledger, run).request.policy == policy
        except RecordUnreadable:  # a slot's run has its policy in its name
            return newest_slot(policy, [run], now) is not None

    def _stop_at_the_end_of_windows(self, now: datetime) -> None:
        """Gives up every disk that still streams, or is resumed later; VMs that are planned later see the
        time themselves."""
        known = self._context.ledger.run_states()
        self._endless &= set(known)
        self._endless |= {run for run, state in known.items() if state == "ended"}
        for run in known:
            if run not in self._endless:
                try:
                    self._stop_if_over(run, now)
                except UnknownToLedger:
                    self._endless.add(run)  # it expired meanwhile
                except RecordUnreadable as error:
                    log.warning("a run goes on without the end of its window: %s", error)
                    self._endless.add(run)
                except CbtfleetError:
                    raise
                except Exception:
                    log.exception("run %s: the end of its window cannot be found; going on without", run)
                    self._endless.add(run)

    def _stop_if_over(self, run: str, now: datetime) -> None:
        ledger = self._context.ledger
        trigger = run_facts(ledger, run).request.trigger
        if trigger is None or trigger.ends is None:
            self._endless.add(run)
            return
        over = trigger.over(now)
        if over is None:
            return
        disks = ledger.stop(run, over)
        if disks:
            log.warning("run %s: %s; disks that were not finished: %d", run, over, disks)


def _iso(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"


def _local(moment: datetime, policy: Policy) -> str:
    return f"{moment.astimezone(policy.zone):%Y-%m-%d %H:%M} {policy.timezone}"
