"""Tasks and events."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from infra.simulator import SimulatedPool, Timing
from infra.simulator.dispatch import dispatch
from infra.simulator.failures import Failure
from infra.simulator.tasks import collect_tasks
from tests.until import until

Fails = Callable[..., list[str]]


def finished(api: Any, task: str) -> dict[str, Any]:
    until(lambda: api.task.get_status(task) != "pending")
    return dict(api.task.get_record(task))


def test_a_task_that_succeeds(api: Any, vm: Any) -> None:
    done = finished(api, api.Async.VM.snapshot(vm.ref, "s"))
    assert (done["status"], done["progress"], done["error_info"]) == ("success", 1.0, [])
    ref = done["result"].removeprefix("<value>").removesuffix("</value>")
    assert api.VM.get_is_a_snapshot(ref)
    assert done["result"] == f"<value>{ref}</value>"
    assert finished(api, api.Async.VM.destroy(ref))["result"] == "<value></value>"


def test_a_task_that_fails(api: Any, vm: Any, failure: Fails) -> None:
    task = api.Async.VDI.destroy(vm.disks[0])
    done = finished(api, task)
    assert (done["status"], done["progress"]) == ("failure", 1.0)
    assert done["error_info"] == ["VDI_IN_USE", vm.disks[0], "destroy"]
    api.task.destroy(task)
    assert failure(api.task.get_status, task) == ["HANDLE_INVALID", "task", task]


def test_wrong_arity_is_no_task(api: Any, vm: Any, failure: Fails) -> None:
    expected = ["MESSAGE_PARAMETER_COUNT_MISMATCH", "VDI.destroy", "1", "0"]
    assert failure(api.Async.VDI.destroy) == expected


def test_completed_tasks_are_collected(start_pool: Any) -> None:
    state = start_pool().state
    with state.lock:
        done = [
            state.database.create(
                "task", status="success", finished=state.now() - timedelta(minutes=age // 10)
            )
            for age in range(202)
        ]
        old = state.database.create("task", status="failure", finished=state.now() - timedelta(minutes=70))
        pending = state.database.create("task")
        collect_tasks(state)
        left = set(state.database.refs("task"))
    assert old not in left
    assert pending in left
    assert len(left & set(done)) == 200


def test_events_from_everything_to_one_object(api: Any, pool: SimulatedPool, vm: Any, failure: Fails) -> None:
    # `from` is a keyword of Python's.
    events_of = getattr(api.event, "from")
    everything = events_of(["vdi"], "", 0.0)
    assert {event["class"] for event in everything["events"]} == {"vdi"}
    assert {event["ref"] for event in everything["events"]} == set(api.VDI.get_all())
    assert everything["valid_ref_counts"]["vdi"] == len(api.VDI.get_all())
    token, disk = everything["token"], vm.disks[0]
    assert events_of([f"vdi/{disk}"], token, 0.05)["events"] == []
    api.VDI.set_tags(disk, ["seen"])
    (event,) = events_of([f"VDI/{disk}"], token, 5.0)["events"]
    assert (event["operation"], event["timestamp"], event["ref"]) == ("mod", "0.0", disk)
    assert event["snapshot"]["tags"] == ["seen"]
    clone = api.VDI.clone(api.VDI.snapshot(disk))
    token = events_of(["*"], token, 0.0)["token"]
    api.VDI.destroy(clone)
    gone = [event for event in events_of(["*"], token, 5.0)["events"] if event["ref"] == clone]
    assert [event["operation"] for event in gone] == ["del"]
    assert "snapshot" not in gone[0]
    assert failure(events_of, ["*"], "yesterday", 0.0) == ["EVENT_FROM_TOKEN_PARSE_FAILURE", "yesterday"]


def test_a_change_wakes_who_waits_for_it(api: Any, pool: SimulatedPool, login: Any, vm: Any) -> None:
    events_of = getattr(login(pool).event, "from")
    token = events_of(["vm"], "", 0.0)["token"]
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(events_of([f"vm/{vm.ref}"], token, 600.0)))
    started = time.monotonic()
    thread.start()
    api.VM.set_tags(vm.ref, ["x"])
    thread.join()
    assert time.monotonic() - started < 60
    assert [event["ref"] for event in results[0]["events"]] == [vm.ref]


def test_log_out_wakes_who_waits(pool: SimulatedPool, api: Any) -> None:
    token = getattr(api.event, "from")(["vm"], "", 0.0)["token"]
    thread = threading.Timer(
        0.1, lambda: dispatch(pool.state, pool.state.master, "session.logout", [api.ref])
    )
    thread.start()
    started = time.monotonic()
    with pytest.raises(Failure, match="SESSION_INVALID"):
        dispatch(pool.state, pool.state.master, "event.from", [api.ref, ["vm/none"], token, 600.0])
    thread.join()
    assert time.monotonic() - started < 60


def test_stopping_does_not_wait_for_anything(start_pool: Any, login: Any, machine: Any) -> None:
    pool = start_pool(timing=Timing(operation_delay=600))
    api = login(pool)
    api.Async.VM.snapshot(machine(pool, api).ref, "s")
    started = time.monotonic()
    pool.stop()
    assert time.monotonic() - started < 60
