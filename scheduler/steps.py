"""Control steps as Celery tasks: claimed with a lease, done, and ended whatever happens.

due --publish--> claimed (lease, renewed) --+--> finished
 ^                    |                     |
 +---- lease ran out -+                     +--> failed with one line: the run goes on without it
 +---- no permit yet -+
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from types import TracebackType

from celery import Celery, Task

from scheduler.context import ControlContext
from scheduler.finishing.after_run import after_run
from scheduler.finishing.steps import end_run, failed_result, finish_vm
from scheduler.planning.concurrency import WaitsForPermit
from scheduler.planning.steps import plan_run, plan_vm
from scheduler.retry import TRANSIENT, with_retries
from scheduler.runs.facts import VmInHand, failed_vm, keep_run_facts, run_facts
from workers.errors import CbtfleetError
from workers.fleet import Ledger, LedgerUnreachable, StepLost
from workers.messages import STEP_QUEUE, STEP_TASK, NotAMessage, Step
from workers.records import RecordUnreadable

log = logging.getLogger(__name__)

PLAN_RUN, PLAN_VM, FINISH_VM, END_RUN = "plan-run", "plan-vm", "finish-vm", "end-run"

END_AGAIN = 60.0
"""Seconds until a run whose result the store did not take is ended again."""


class _StepLease:
    """Renews a step's lease from a thread while the step is being done.

    `lost` says that it ran out, as this process stood still, and another has the step now; or that Redis
    forgot it with everything.
    """

    def __init__(self, ledger: Ledger, step: Step, fence: int) -> None:
        self._ledger = ledger
        self._step = step
        self._fence = fence
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="step-lease", daemon=True)
        self.lost = False

    def __enter__(self) -> _StepLease:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end.set()
        self._thread.join()

    def still_ours(self) -> bool:
        """Asks the ledger: after a pause this thread may go on before the renewing one. To be asked before
        what must not be done twice. Raises LedgerError."""
        if not self.lost:
            self.lost = not self._ledger.renew_step(self._step, self._fence)
        return not self.lost

    def _keep(self) -> None:
        while not self._end.wait(self._ledger.timing.renew_every):
            try:
                self.lost = not self._ledger.renew_step(self._step, self._fence)
            except CbtfleetError as error:
                log.warning("lease of step %s not renewed: %s", self._step.name, error)
            if self.lost:
                return


def do_step(context: ControlContext, step: Step) -> bool:
    """Does one step if it is still due; False when it is not. Passing failures are tried again here, final
    ones are recorded."""
    fence = context.ledger.claim_step(step, context.owner)
    if fence is None:
        return False
    failure: str | None = None
    with _StepLease(context.ledger, step, fence) as lease, context.ledger.holding(step, fence):
        try:
            with_retries(lambda: _do(context, step), go_on=lease.still_ours)
        except LedgerUnreachable:
            raise
        except StepLost:
            lease.lost = True
        except WaitsForPermit as wait:
            context.ledger.put_off_step(step, fence, wait.seconds)
            return False
        except CbtfleetError as error:
            log.error("run %s, %s %s: %s", step.run, step.name, step.subject, error)
            if step.name == END_RUN and isinstance(error, TRANSIENT):
                # Its record in the repository would stay open, and the run be taken for lost one day.
                context.ledger.put_off_step(step, fence, END_AGAIN)
                return False
            failure = str(error)
        except Exception as error:
            # A mistake of ours, or a pool that is unlike any we know: the run must end all the same.
            log.exception("run %s, %s %s: unexpected", step.run, step.name, step.subject)
            failure = f"unexpected {type(error).__name__} in {step.name}; the scheduler's log has the details"
        if not lease.still_ours():
            log.warning("run %s, %s %s: another scheduler has it now", step.run, step.name, step.subject)
            return True
        if failure is not None:
            _record_failure(context, step, failure)
        context.ledger.finish_step(step, fence)
    return True


def _do(context: ControlContext, step: Step) -> None:
    if step.name == PLAN_RUN:
        plan_run(context, step.run)
    elif step.name == PLAN_VM:
        plan_vm(context, step.run, step.subject)
    elif step.name == FINISH_VM:
        finish_vm(context, step.run, step.subject)
    elif step.name == END_RUN:
        end_run(context, step.run)
    else:
        raise CbtfleetError(f"unknown step {step.name}; is a newer scheduler using the same Redis?")


def _record_failure(context: ControlContext, step: Step, line: str) -> None:
    """Lets the run go on, or end, without what this step should have done."""
    ledger = context.ledger
    if step.name == PLAN_RUN:
        with suppress(RecordUnreadable):  # end-run meets it again, and says so
            keep_run_facts(ledger, step.run, replace(run_facts(ledger, step.run), error=line))
        ledger.add_vms(step.run, {})
    elif step.name in (PLAN_VM, FINISH_VM):
        vm = _failed_vm(context, step, line)
        if step.name == PLAN_VM:
            vm.keep()
            ledger.start_vm(step.run, step.subject, [])
        else:
            vm.finish()
    else:
        facts = None
        with suppress(RecordUnreadable):
            facts = run_facts(ledger, step.run)
        result = None if facts is None else facts.result
        if result is None:
            result = failed_result(ledger.progress(step.run), facts, line)
        result = replace(result, status="failed", error=line)
        ledger.end_run(step.run, result.write())
        after_run(context, result)


def _failed_vm(context: ControlContext, step: Step, line: str) -> VmInHand:
    try:
        vm = VmInHand.from_ledger(context.ledger, step.run, step.subject)
        vm.facts = replace(vm.facts, error=f'VM "{vm.facts.name}": {line}')
        return vm
    except RecordUnreadable:
        facts = failed_vm(context.repository, step.run, step.subject, line)
        return VmInHand(context.ledger, step.run, step.subject, facts)


class StepTask(Task):  # type: ignore[misc]
    """The one task of the control plane."""

    name = STEP_TASK
    queue = STEP_QUEUE
    ignore_result = True
    acks_late = False

    def __init__(self, context: ControlContext, done: Callable[[str, float], None]) -> None:
        self._step_context = context
        self._done = done

    def run(self, message: object) -> None:
        began = time.monotonic()
        try:
            step = Step.from_message(message)
        except NotAMessage as error:
            log.warning("%s", error)
            return
        try:
            if do_step(self._step_context, step):
                self._done(step.name, time.monotonic() - began)
        except CbtfleetError as error:  # Redis is away, say: the step is due again when its lease has run out
            log.warning("step %s was left: %s", step.name, error)


def register_step_task(
    app: Celery, context: ControlContext, done: Callable[[str, float], None] = lambda step, seconds: None
) -> None:
    """`done` hears of each try at a step: its name and the seconds it took."""
    app.register_task(StepTask(context, done))
