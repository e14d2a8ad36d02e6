"""Sessions that are kept: shared in turn, replaced, given up, and never many."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from workers.settings import RepositorySettings, Settings
from workers.xenapi import LoginRefused, PoolUnreachable, SessionLost, Sessions, sessions

LOGIN, LOGOUT = "session.login_with_password", "session.logout"


def _settings(xapi: Any, **changes: Any) -> Settings:
    return Settings(
        repository=RepositorySettings(url="file:///nowhere"), pools={"lab": xapi.settings(**changes)}
    )


@pytest.fixture
def kept(xapi: Any) -> Iterator[Sessions]:
    with Sessions(_settings(xapi), "cbtfleet/test") as kept:
        yield kept
    assert xapi.sessions == set()
    assert "xenapi-idle" not in {thread.name for thread in threading.enumerate()}


def test_nothing_is_logged_in_before_somebody_borrows(xapi: Any, kept: Sessions) -> None:
    assert xapi.calls == []


def test_one_login_serves_one_borrower_after_the_other(xapi: Any, kept: Sessions) -> None:
    for _ in range(20):
        with kept.borrow("lab") as session:
            session.call("VM.get_all")
    assert xapi.methods().count(LOGIN) == 1
    assert xapi.methods().count(LOGOUT) == 0
    assert xapi.calls[0][1][3] == "cbtfleet/test"


def test_any_thread_may_borrow_and_a_session_is_one_threads_alone(xapi: Any, kept: Sessions) -> None:
    at_once = threading.Barrier(4)
    used: list[str] = []

    def work(_: int) -> None:
        with kept.borrow("lab") as session:
            at_once.wait(10)
            session.call("VM.get_all")
            used.append(session.export_name(""))
            at_once.wait(10)

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(work, range(4)))
        assert len(set(used)) == 4
        assert len(xapi.sessions) == sessions.KEPT, "more are not kept"
        list(threads.map(work, range(4)))
    assert xapi.methods().count(LOGIN) == 6


def test_a_session_that_was_lost_is_not_given_to_the_next(xapi: Any, kept: Sessions) -> None:
    with kept.borrow("lab") as session:
        xapi.sessions.clear()
        with pytest.raises(SessionLost):
            session.call("VM.destroy", "OpaqueRef:vm")
    with kept.borrow("lab") as session:
        session.call("VM.destroy", "OpaqueRef:vm")
    assert xapi.methods().count(LOGIN) == 2


def test_what_fails_for_another_reason_does_not_cost_the_session(xapi: Any, kept: Sessions) -> None:
    with pytest.raises(ZeroDivisionError), kept.borrow("lab"):
        raise ZeroDivisionError
    with kept.borrow("lab"):
        pass
    assert xapi.methods().count(LOGIN) == 1


def test_an_idle_session_is_asked_whether_it_lives(
    xapi: Any, kept: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    with kept.borrow("lab"):
        pass
    xapi.sessions.clear()
    monkeypatch.setattr("workers.xenapi.sessions._TRUSTED_SECONDS", -1.0)
    with kept.borrow("lab") as session:
        session.call("VM.destroy", "OpaqueRef:vm")
    assert xapi.methods().count(LOGIN) == 2


def test_an_idle_session_ends_by_itself(xapi: Any, kept: Sessions, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workers.xenapi.sessions.IDLE_SECONDS", 0.1)
    ended = threading.Event()
    said = xapi.raw_value({"Status": "Success", "Value": ""})
    run = said.run

    def logged_out(handler: Any) -> bool:
        xapi.sessions.clear()
        alive = run(handler)
        ended.set()
        return bool(alive)

    said.run = logged_out
    xapi.say(LOGOUT, said)
    with kept.borrow("lab"):
        pass
    assert ended.wait(10)
    with kept.borrow("lab") as session:
        session.call("VM.get_all")
    assert xapi.methods().count(LOGIN) == 2


def test_close_logs_out_what_is_idle_and_later_what_comes_back(xapi: Any, kept: Sessions) -> None:
    with kept.borrow("lab") as outer:
        with kept.borrow("lab"):
            pass
        kept.close()
        assert len(xapi.sessions) == 1
        outer.call("VM.get_all")
    assert xapi.sessions == set()
    kept.close()


def test_it_can_be_used_again_after_close(xapi: Any, kept: Sessions) -> None:
    kept.close()
    with kept.borrow("lab"):
        pass
    assert len(xapi.sessions) == 1


def test_a_refused_password_is_tried_once_for_all(xapi: Any, tmp_path: Path, password: str) -> None:
    file = tmp_path / "password"
    file.write_text("wrong\n")
    settings = _settings(xapi, password=None, password_file=file)
    with Sessions(settings) as kept:

        def refused(_: int) -> str:
            with pytest.raises(LoginRefused) as caught, kept.borrow("lab"):
                pass
            return str(caught.value)

        with ThreadPoolExecutor(8) as threads:
            [said] = set(threads.map(refused, range(100)))
        assert "user name or password is wrong" in said
        assert "not tried again with the same password for 60 s" in said
        assert "wrong\n" not in said
        assert xapi.methods() == [LOGIN]
        file.write_text(password + "\n")
        with kept.borrow("lab") as session:
            session.call("VM.get_all")
    assert xapi.sessions == set()


def test_a_password_that_stays_wrong_is_tried_more_and_more_rarely(
    xapi: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [time.monotonic()]
    monkeypatch.setattr("workers.xenapi.sessions.time.monotonic", lambda: now[0])
    with Sessions(_settings(xapi, password="wrong")) as kept:
        for seconds in (60, 120, 240, 480, 900, 900):
            for _ in range(2):
                with pytest.raises(LoginRefused, match=f"for {seconds} s"), kept.borrow("lab"):
                    pass
            now[0] += seconds
    assert xapi.methods() == [LOGIN] * 6


def test_a_pool_that_is_away_is_no_refusal(xapi: Any, kept: Sessions) -> None:
    xapi.say(LOGIN, xapi.fail("HOST_IN_EMERGENCY_MODE"))
    with pytest.raises(PoolUnreachable), kept.borrow("lab"):
        pass
    with kept.borrow("lab"):
        pass


def test_members_are_learnt_at_the_login_where_the_pool_tells_them(xapi: Any, kept: Sessions) -> None:
    xapi.handlers["host.get_all_records"] = lambda: {
        "OpaqueRef:a": {"uuid": "a", "address": "10.0.0.1", "metrics": "OpaqueRef:m"}
    }
    with kept.borrow("lab") as session:
        assert session.memory.addresses == ("10.0.0.1",)


def test_a_child_process_leaves_its_parents_sessions_alone(
    xapi: Any, kept: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    with kept.borrow("lab"):
        pass
    [parents] = xapi.sessions
    timer, [(_, idle)] = kept._timer, kept._pools["lab"].idle
    monkeypatch.setattr("workers.xenapi.sessions.os.getpid", lambda: -5)
    with kept.borrow("lab") as session:
        assert parents not in session.export_name("")
    kept.close()
    assert xapi.sessions == {parents}
    idle.logout()
    assert timer is not None
    timer.cancel()
    timer.join()
