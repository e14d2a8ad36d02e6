"""What follows a run's end: retention, the policy's hook, what dead writers left in the store, and telling
people. None of it can fail the run.

It may be done twice when a scheduler dies in the middle, and is never left out: the run's last step ends
only after it.
"""

from __future__ import annotations

import logging

from scheduler.context import ControlContext
from scheduler.finishing.forgetting import decide_by_policy, forget
from scheduler.hooks import AFTER_RUN, run_hook
from scheduler.notifications import compose, notify, parse_notifications
from scheduler.policies.policy import Policy, parse_policies
from scheduler.runs.values import RunResult
from workers.errors import CbtfleetError

log = logging.getLogger(__name__)


def after_run(context: ControlContext, result: RunResult) -> None:
    """Raises nothing: what fails is logged, and told in the notification."""
    try:
        _after_run(context, result)
    except CbtfleetError as error:
        log.error("after run %s: %s", result.run, error)
    except Exception:
        log.exception("after run %s: unexpected", result.run)


def _after_run(context: ControlContext, result: RunResult) -> None:
    name = result.policy
    policy = parse_policies(context.settings).get(name) if name else None
    troubles: list[str] = []
    forgotten: list[str] = []
    if name and policy is not None:
        try:
            forgotten = _forget(context, name, policy, result)
        except Exception as error:  # noqa: BLE001 said in the notification; the run must not suffer
            troubles.append(f"restore points were not forgotten: {_said(error)}")
        try:
            _run_hook(policy, result, forgotten)
        except Exception as error:  # noqa: BLE001 said in the notification; the run must not suffer
            troubles.append(_said(error))
    try:
        if abandoned := context.repository.remove_abandoned_writes():
            log.info("%d half-written files of dead writers are removed from the store", abandoned)
    except Exception as error:  # noqa: BLE001 said in the notification; the run must not suffer
        troubles.append(f"half-written files of dead writers stay in the store: {_said(error)}")
    for line in troubles:
        log.error("after run %s: %s", result.run, line)
    notify(parse_notifications(context.settings), compose(result, troubles, len(forgotten)))


def _said(error: Exception) -> str:
    if isinstance(error, CbtfleetError):
        return str(error)
    log.error("unexpected, after a run", exc_info=error)
    return f"unexpected {type(error).__name__}; the scheduler's log has the details"


def _forget(context: ControlContext, name: str, policy: Policy, result: RunResult) -> list[str]:
    """The ids of the points that are forgotten: only of this run's VMs, only after everything succeeded."""
    if policy.keep is None or result.status != "succeeded":
        return []
    vms = {row.vm_uuid for row in result.disks}
    decisions = decide_by_policy(context.repository, name, policy, vms)
    points = [decision.point for decision in decisions if not decision.kept_by]
    forget(context.repository, points)
    return [point.id for point in points]


def _run_hook(policy: Policy, result: RunResult, forgotten: list[str]) -> None:
    if policy.hooks.after_run and result.status != "skipped":
        facts = {
            "run": result.run,
            "policy": result.policy,
            "result": result.members(),
            "forgotten": forgotten,
        }
        run_hook(AFTER_RUN, policy.hooks.after_run, facts, policy.hooks.timeout, f"run {result.run}")
