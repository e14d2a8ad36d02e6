"""One request's way: find the call, count its parameters, check session, master and role, run it."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from functools import partial
from typing import Any

from infra.simulator.calls import find_call
from infra.simulator.calls.registry import Call, Context
from infra.simulator.calls.session import check_role, check_session
from infra.simulator.failures import Failure, ReplyDropped, TooEarly
from infra.simulator.faults import Fault
from infra.simulator.schema import FIELDS
from infra.simulator.state import State
from infra.simulator.tasks import run_task, start_task

_ASYNC = "Async."


def dispatch(state: State, host: str, method: str, params: list[Any]) -> Any:
    """The value of a call. Raises Failure, Stopping, or ReplyDropped when a fault says so."""
    state.log.called(method)
    if host in state.booting:
        raise TooEarly("HOST_STILL_BOOTING")
    with state.lock:
        fault = state.faults.call(method, _objects(state, params))
        in_task = None
        if fault is None and method.startswith(_ASYNC):
            in_task = state.faults.call(method.removeprefix(_ASYNC), _objects(state, params))
        struck = fault or in_task
        if struck is not None and struck.drop_request:
            raise ReplyDropped
        value = _run_with(fault, state, lambda: _run(state, host, method, params, in_task))
        if struck is not None and struck.drop_reply:
            raise ReplyDropped
        return value


def _run_with(fault: Fault | None, state: State, work: Callable[[], Any]) -> Any:
    if fault is not None:
        state.pause(fault.delay)
        if fault.failure:
            raise Failure(*fault.failure)
    try:
        return work()
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        # XAPI's own fate for whatever its code did not foresee.
        raise Failure("INTERNAL_ERROR", repr(error)) from error


def _run(state: State, host: str, method: str, params: list[Any], in_task: Fault | None) -> Any:
    asynchronous = method.startswith(_ASYNC)
    found = find_call(_canonical(method.removeprefix(_ASYNC)))
    if found is None:
        check_session(state, params[0] if params else "")
        raise Failure("MESSAGE_METHOD_UNKNOWN", method)
    if asynchronous and not found.asynchronous:
        raise Failure("Fault", f"No async mode for this operation: {found.method}")
    session, arguments = _arguments(found, params)
    if found.needs_session:
        session = check_session(state, session)
    _check_master(state, host, found)
    if found.needs_session:
        check_role(state, session, found.method, found.role)
    if not asynchronous:
        context = Context(state, host, session, f"OpaqueRef:{uuid.uuid4()}", found.method)
        return _function(state, found)(context, *arguments)
    context = Context(state, host, session, start_task(state, session, host, found.method), found.method)
    work = partial(_run_with, in_task, state, partial(_function(state, found), context, *arguments))
    state.start_thread(partial(run_task, state, context.task, work), found.method)
    return context.task


def _function(state: State, found: Call) -> Callable[..., Any]:
    def logged(*arguments: Any) -> Any:
        with state.log.running(found.method):
            return found.function(*arguments)

    return logged


def _arguments(found: Call, params: list[Any]) -> tuple[str, list[Any]]:
    if not found.needs_session:
        return "", found.bind(params)
    if not params:
        raise Failure("MESSAGE_PARAMETER_COUNT_MISMATCH", found.method, str(len(found.parameters)), "0")
    return params[0], found.bind(params[1:])


def _check_master(state: State, host: str, found: Call) -> None:
    if host != state.master and not found.method.startswith("session.slave_local_"):
        raise Failure("HOST_IS_SLAVE", state.database.get("host", state.master)["address"])


def _canonical(method: str) -> str:
    """`VDI_get_record` is an alias of `VDI.get_record`."""
    if "." in method:
        return method
    for cls in (*FIELDS, "event"):
        if method.startswith(f"{cls}_"):
            return f"{cls}.{method[len(cls) + 1 :]}"
    return method


def _objects(state: State, params: list[Any]) -> list[str]:
    """The call's text arguments, and the uuids of the objects among them: what a fault may name."""
    texts = [param for param in params if isinstance(param, str)]
    uuids = [
        record["uuid"]
        for cls in ("VM", "VDI", "SR", "host")
        for ref in texts
        if state.database.exists(cls, ref) and (record := state.database.get(cls, ref))
    ]
    return texts + uuids
