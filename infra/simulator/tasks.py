"""Tasks: every call runs as one; those started with `Async.` can be watched."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

from infra.simulator.failures import Failure, Stopping
from infra.simulator.state import State
from infra.simulator.xmlrpc_wire import encode_value

_KEEP_FOR = timedelta(minutes=65)
_KEEP_COMPLETED = 200


def start_task(state: State, session: str, host: str, method: str) -> str:
    task = state.database.create(
        "task",
        name_label=f"Async.{method}",
        created=state.now(),
        resident_on=host,
        allowed_operations=["cancel"],
    )
    if state.database.exists("session", session):
        tasks = state.database.get("session", session)["tasks"]
        state.database.update("session", session, tasks=[*tasks, task])
    return task


def run_task(state: State, task: str, work: Callable[[], Any]) -> None:
    """Runs `work` with the lock held and notes how it ended: the result is XML, progress 1.0 always."""
    with state.lock:
        try:
            value = work()
        except Stopping:
            return
        except Failure as failure:
            complete_task(state, task, status="failure", error_info=list(failure.description))
        else:
            complete_task(state, task, status="success", result=encode_value("" if value is None else value))


def collect_tasks(state: State) -> None:
    """Completed tasks go after 65 minutes, and the oldest of them when there are more than 200."""
    database = state.database
    completed = [ref for ref in database.refs("task") if database.get("task", ref)["status"] != "pending"]
    completed.sort(key=lambda ref: database.get("task", ref)["finished"])
    surplus = max(0, len(completed) - _KEEP_COMPLETED)
    for place, ref in enumerate(completed):
        if place < surplus or state.now() - database.get("task", ref)["finished"] > _KEEP_FOR:
            database.delete("task", ref)


def complete_task(state: State, task: str, **values: Any) -> None:
    """`values`: status, and result or error_info. A task that somebody destroyed is forgotten."""
    if state.database.exists("task", task):
        state.database.update(
            "task", task, finished=state.now(), progress=1.0, allowed_operations=[], **values
        )
