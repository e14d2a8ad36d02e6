"""Calls on tasks."""

from __future__ import annotations

from infra.simulator.calls.registry import ROLES, Context, call
from infra.simulator.failures import Failure


@call("task.create", "read-only")
def create(context: Context, label: str, description: str) -> str:
    state = context.state
    task = state.database.create(
        "task", name_label=label, name_description=description, created=state.now(), resident_on=context.host
    )
    _own(context, task)
    return task


@call("task.cancel", "read-only", asynchronous=True)
def cancel(context: Context, task: str) -> None:
    """Cooperative: none of the simulated operations looks at it, so they complete all the same."""
    _check_owner(context, task)
    if context.state.database.get("task", task)["status"] != "pending":
        raise Failure("OPERATION_NOT_ALLOWED", "task is already complete")


@call("task.destroy", "read-only")
def destroy(context: Context, task: str) -> None:
    _check_owner(context, task)
    context.state.database.delete("task", task)


def _own(context: Context, task: str) -> None:
    tasks = context.state.database.get("session", context.session)["tasks"]
    context.state.database.update("session", context.session, tasks=[*tasks, task])


def _check_owner(context: Context, task: str) -> None:
    """One's own tasks (same user), or any as a pool-operator. Raises Failure."""
    state, database = context.state, context.state.database
    database.get("task", task)
    user = database.get("session", context.session)["auth_user_name"]
    if ROLES.index(state.users[user].role) >= ROLES.index("pool-operator"):
        return
    owners = [
        session["auth_user_name"]
        for session in (database.get("session", ref) for ref in database.refs("session"))
        if task in session["tasks"]
    ]
    if user not in owners:
        raise Failure("RBAC_PERMISSION_DENIED", context.method.lower(), "not a task of this user")
