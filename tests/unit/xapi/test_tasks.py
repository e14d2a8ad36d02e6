"""Calls that run as tasks: waiting for them, their results and failures, and leaving none behind."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from workers.errors import ConfigurationError
from workers.xenapi import (
    AnswerLost,
    BadAnswer,
    CallCancelled,
    CallTimedOut,
    LoginRefused,
    PoolUnreachable,
    Session,
    SessionLost,
    XapiFailure,
)

TASK = "OpaqueRef:task"


def _record(status: str, result: str = "", *error_info: str) -> dict[str, Any]:
    return {"status": status, "result": result, "error_info": list(error_info), "progress": 1.0}


@pytest.fixture
def session(xapi: Any) -> Iterator[Session]:
    xapi.handlers["Async.VM.snapshot"] = lambda *_: TASK
    with Session.login("lab", xapi.settings()) as session:
        yield session
    assert xapi.sessions == set()


@pytest.mark.parametrize(
    ("result", "decoded"),
    [
        ("<value>OpaqueRef:new</value>", "OpaqueRef:new"),
        ("<value><string>a &lt;b&gt; &amp; c</string></value>", "a <b> & c"),
        ("<value/>", ""),
        ("<value></value>", ""),
        ("", ""),
        ("OpaqueRef:bare", "OpaqueRef:bare"),
    ],
)
def test_results(xapi: Any, session: Session, result: str, decoded: str) -> None:
    xapi.say("task.get_record", _record("pending"), _record("success", result))
    assert session.call_async("VM.snapshot", "OpaqueRef:vm", "new", 1 << 40) == decoded
    assert xapi.calls[1][1][1:] == ("OpaqueRef:vm", "new", str(1 << 40))
    assert xapi.methods()[1:] == ["Async.VM.snapshot", "task.get_record", "task.get_record", "task.destroy"]


def test_a_fast_task_is_not_kept_waiting(xapi: Any, session: Session) -> None:
    ends = time.monotonic() + 0.1

    def get_record(_: str) -> dict[str, Any]:
        return _record("success", "<value>x</value>") if time.monotonic() > ends else _record("pending")

    xapi.handlers["task.get_record"] = get_record
    began = time.monotonic()
    session.call_async("VM.snapshot", "OpaqueRef:vm", "new")
    assert time.monotonic() - began < 1
    assert xapi.methods().count("task.get_record") <= 5


def test_polls_become_rarer(xapi: Any, session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr("workers.xenapi.tasks.time.sleep", pauses.append)
    xapi.say("task.get_record", *[_record("pending")] * 14, _record("success"))
    session.call_async("VM.snapshot", "OpaqueRef:vm", "new")
    assert pauses[0] == pytest.approx(0.05)
    assert pauses[-1] == 2
    assert all(earlier <= later for earlier, later in itertools.pairwise(pauses))


def test_a_failed_task(xapi: Any, session: Session) -> None:
    xapi.say("task.get_record", _record("failure", "", "SR_BACKEND_FAILURE_44", "", "no space", "stderr"))
    with pytest.raises(XapiFailure, match="storage repository is full") as caught:
        session.call_async("VM.snapshot", "OpaqueRef:vm", "new")
    assert (caught.value.code, caught.value.method) == ("SR_BACKEND_FAILURE_44", "VM.snapshot")
    assert xapi.methods()[-1] == "task.destroy"
    assert "task.cancel" not in xapi.methods()


@pytest.mark.parametrize(("status", "code"), [("cancelled", "TASK_CANCELLED"), ("failure", "INTERNAL_ERROR")])
def test_an_end_without_reason(xapi: Any, session: Session, status: str, code: str) -> None:
    xapi.say("task.get_record", _record("cancelling"), _record(status))
    with pytest.raises(XapiFailure) as caught:
        session.call_async("VM.snapshot", "OpaqueRef:vm", "new")
    assert caught.value.code == code
    assert xapi.methods()[-1] == "task.destroy"


def test_the_deadline_cancels_and_destroys(xapi: Any, session: Session) -> None:
    xapi.handlers["task.get_record"] = lambda _: _record("pending")
    with pytest.raises(CallTimedOut, match=r"VM\.snapshot did not end in time; its task was asked to cancel"):
        session.call_async("VM.snapshot", "OpaqueRef:vm", "new", deadline=0.3)
    assert xapi.methods()[-2:] == ["task.cancel", "task.destroy"]


@pytest.mark.parametrize("code", ["Fault", "MESSAGE_METHOD_UNKNOWN"])
def test_a_call_without_task_mode_is_made_without_a_task(xapi: Any, session: Session, code: str) -> None:
    xapi.say("Async.VM.snapshot", xapi.fail(code, "No async mode for this operation (snapshot)"))
    xapi.say("VM.snapshot", "OpaqueRef:new")
    assert session.call_async("VM.snapshot", "OpaqueRef:vm", "new") == "OpaqueRef:new"
    assert xapi.methods()[1:] == ["Async.VM.snapshot", "VM.snapshot"]


@pytest.mark.parametrize("code", ["OTHER_OPERATION_IN_PROGRESS", "TOO_MANY_PENDING_TASKS"])
def test_a_busy_object_is_asked_again_for_a_while(
    xapi: Any, session: Session, monkeypatch: pytest.MonkeyPatch, code: str
) -> None:
    monkeypatch.setattr("workers.xenapi.tasks._BUSY_FIRST", 0.01)
    xapi.say("Async.VM.snapshot", xapi.fail(code, "SR", "OpaqueRef:sr"), TASK, TASK)
    xapi.say("task.get_record", _record("failure", "", code), _record("success", "<value>new</value>"))
    assert session.call_async("VM.snapshot", "OpaqueRef:vm", "new") == "new"
    assert xapi.methods().count("Async.VM.snapshot") == 3
    assert xapi.methods().count("task.destroy") == 2
    monkeypatch.setattr("workers.xenapi.tasks._QUEUE_SECONDS", 0.05)
    xapi.handlers["Async.VM.snapshot"] = lambda *_: xapi.fail(code, "SR", "OpaqueRef:sr")
    with pytest.raises(XapiFailure, match=code):
        session.call_async("VM.snapshot", "OpaqueRef:vm", "new")


def test_a_task_may_lack_its_result_until_it_has_one(xapi: Any, session: Session) -> None:
    xapi.say("task.get_record", {"status": "pending"}, {"status": "success"})
    assert session.call_async("VM.destroy", "OpaqueRef:vm") == ""


def test_broken_polls_are_repeated_and_the_task_runs_once(xapi: Any, session: Session) -> None:
    xapi.say(
        "task.get_record",
        xapi.drop(),
        xapi.drop(),
        xapi.body(b"", 500),
        _record("success", "<value>x</value>"),
    )
    assert session.call_async("VM.snapshot", "OpaqueRef:vm", "new") == "x"
    assert xapi.methods().count("Async.VM.snapshot") == 1


def test_polls_that_stay_broken(xapi: Any, session: Session) -> None:
    xapi.say("task.get_record", *[xapi.drop()] * 9)
    with pytest.raises(AnswerLost):
        session.call_async("VM.snapshot", "OpaqueRef:vm", "new")
    assert xapi.methods().count("task.get_record") == 5
    assert xapi.methods()[-2:] == ["task.cancel", "task.destroy"]


def test_a_task_that_is_no_task(xapi: Any, session: Session) -> None:
    xapi.handlers["task.get_record"] = lambda _: {"result": ""}
    with pytest.raises(BadAnswer, match="no status"):
        session.call_async("VM.snapshot", "OpaqueRef:vm", "new", deadline=10)
    assert xapi.methods().count("task.get_record") == 4


def test_a_lost_answer_of_the_start_is_not_asked_for_again(xapi: Any, session: Session) -> None:
    xapi.say("Async.VM.snapshot", xapi.drop())
    with pytest.raises(AnswerLost):
        session.call_async("VM.snapshot", "OpaqueRef:vm", "new")
    assert xapi.methods().count("Async.VM.snapshot") == 1


def test_a_task_that_vanished(xapi: Any, session: Session) -> None:
    xapi.say("task.get_record", xapi.fail("HANDLE_INVALID", "task", TASK))
    with pytest.raises(AnswerLost, match=r"the task of VM\.snapshot vanished"):
        session.call_async("VM.snapshot", "OpaqueRef:vm", "new")


def test_a_pool_that_goes_away_under_a_task_is_no_pool_that_has_run_nothing(xapi: Any) -> None:
    gone = threading.Event()

    def stop_listening() -> None:
        xapi.server.shutdown()
        xapi.server.socket.close()
        gone.set()

    def get_record(_: str) -> Any:
        threading.Thread(target=stop_listening).start()
        assert gone.wait(20)
        return xapi.drop()

    xapi.handlers |= {"Async.VM.snapshot": lambda *_: TASK, "task.get_record": get_record}
    with Session.login("lab", xapi.settings()) as session:
        with pytest.raises(AnswerLost, match=r"^pool lab: VM\.snapshot was begun.*cannot connect") as caught:
            session.call_async("VM.snapshot", "OpaqueRef:vm", "new")
        assert isinstance(caught.value.__cause__, PoolUnreachable)
    assert xapi.methods().count("Async.VM.snapshot") == 1


@pytest.mark.parametrize(
    "code",
    [
        "HOST_IN_EMERGENCY_MODE",
        "HOST_IS_SLAVE",
        "INTERNAL_ERROR",
        "OTHER_OPERATION_IN_PROGRESS",
        "RBAC_PERMISSION_DENIED",
        "TOO_MANY_PENDING_TASKS",
    ],
)
def test_a_poll_that_is_refused_says_nothing_of_the_task(
    xapi: Any, session: Session, monkeypatch: pytest.MonkeyPatch, code: str
) -> None:
    """Also when the code is one that, said of the call itself, would mean that nothing was begun."""
    monkeypatch.setattr("workers.xenapi.tasks._BUSY_FIRST", 0.01)
    xapi.handlers["task.get_record"] = lambda _: xapi.fail(code, "parameter")
    with pytest.raises(AnswerLost, match=r"^pool lab: VM\.snapshot was begun"):
        session.call_async("VM.snapshot", "OpaqueRef:vm", "new")
    assert xapi.methods().count("Async.VM.snapshot") == 1
    assert xapi.methods()[-2:] == ["task.cancel", "task.destroy"]


def test_a_poll_that_may_not_log_in_again_says_nothing_of_the_task(xapi: Any, tmp_path: Path) -> None:
    """Neither a password that was changed meanwhile, nor its file that is gone."""
    password = tmp_path / "password"
    password.write_text(xapi.settings().read_password())
    settings = xapi.settings(password=None, password_file=password)
    xapi.handlers["Async.VM.snapshot"] = lambda *_: TASK
    changes = [lambda: password.write_text("another"), password.unlink]
    for change, why in zip(changes, (LoginRefused, ConfigurationError), strict=True):

        def get_record(_: str, change: Any = change) -> Any:
            change()
            xapi.sessions.clear()
            return _record("pending")

        password.write_text(xapi.settings().read_password())
        xapi.handlers["task.get_record"] = get_record
        with Session.login("lab", settings) as session:
            with pytest.raises(AnswerLost, match=r"^pool lab: VM\.snapshot was begun") as caught:
                session.call_async("VM.snapshot", "OpaqueRef:vm", "new")
            assert isinstance(caught.value.__cause__, why)


def test_a_session_that_ends_meanwhile_is_replaced_and_the_task_goes_on(xapi: Any, session: Session) -> None:
    def end_session(_: str) -> dict[str, Any]:
        xapi.sessions.clear()
        xapi.handlers["task.get_record"] = lambda _: _record("success", "<value>x</value>")
        return _record("pending")

    xapi.handlers["task.get_record"] = end_session
    assert session.call_async("VM.snapshot", "OpaqueRef:vm", "new") == "x"
    assert xapi.methods().count("Async.VM.snapshot") == 1
    assert xapi.methods().count("session.login_with_password") == 2


def test_a_session_that_ended_before_the_task_began(xapi: Any, session: Session) -> None:
    xapi.sessions.clear()
    with pytest.raises(SessionLost):
        session.call_async("VM.snapshot", "OpaqueRef:vm", "new")


@pytest.mark.parametrize(("end", "ended"), [("cancelled", True), ("pending", False)])
def test_told_to_stop_cancels(
    xapi: Any, session: Session, monkeypatch: pytest.MonkeyPatch, end: str, ended: bool
) -> None:
    monkeypatch.setattr("workers.xenapi.tasks._CANCEL_SECONDS", 0.3)
    xapi.handlers["task.get_record"] = lambda _: _record(
        end if "task.cancel" in xapi.methods() else "pending"
    )
    with pytest.raises(CallCancelled, match=r"pool lab: VM\.snapshot was") as caught:
        session.call_async("VM.snapshot", "OpaqueRef:vm", "new", cancelled=lambda: True)
    assert caught.value.ended is ended
    assert "task.cancel" in xapi.methods()
    assert xapi.methods()[-1] == "task.destroy"


def test_a_task_that_ends_although_it_was_cancelled_gives_its_result(xapi: Any, session: Session) -> None:
    stop: list[bool] = []

    def get_record(_: str) -> dict[str, Any]:
        if "task.cancel" in xapi.methods():
            return _record("success", "<value>OpaqueRef:made</value>")
        stop.append(True)
        return _record("pending")

    xapi.handlers["task.get_record"] = get_record
    found = session.call_async("VM.snapshot", "OpaqueRef:vm", "new", cancelled=lambda: bool(stop))
    assert found == "OpaqueRef:made"


def test_told_to_stop_while_the_object_is_busy(xapi: Any, session: Session) -> None:
    xapi.handlers["Async.VM.snapshot"] = lambda *_: xapi.fail("TOO_MANY_PENDING_TASKS")
    with pytest.raises(CallCancelled, match="was not begun") as caught:
        session.call_async("VM.snapshot", "OpaqueRef:vm", "new", cancelled=lambda: True)
    assert caught.value.ended
    assert xapi.methods().count("Async.VM.snapshot") == 1


def test_a_busy_object_is_asked_more_and_more_rarely(
    xapi: Any, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []
    monkeypatch.setattr("workers.xenapi.tasks.time.sleep", pauses.append)
    xapi.say("Async.VM.snapshot", *[xapi.fail("TOO_MANY_PENDING_TASKS")] * 6, TASK)
    xapi.say("task.get_record", _record("success", "<value>x</value>"))
    assert session.call_async("VM.snapshot", "OpaqueRef:vm", "new") == "x"
    assert pauses == [1, 2, 4, 8, 15, 15]


@pytest.mark.parametrize("result", ["<value>", "<value><array><data/></array></value>", "<other>x</other>"])
def test_results_that_are_not_one_value(xapi: Any, session: Session, result: str) -> None:
    xapi.say("task.get_record", _record("success", result))
    with pytest.raises(BadAnswer, match=r"the result of VM\.snapshot is not"):
        session.call_async("VM.snapshot", "OpaqueRef:vm", "new")
    assert xapi.methods()[-1] == "task.destroy"


def test_tidying_up_never_hides_the_result(xapi: Any, session: Session) -> None:
    xapi.say("task.get_record", _record("success", "<value>x</value>"))
    xapi.say("task.destroy", xapi.drop())
    assert session.call_async("VM.snapshot", "OpaqueRef:vm", "new") == "x"
