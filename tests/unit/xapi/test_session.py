"""Logging in and out, finding the master, calling, and what the answers become."""

from __future__ import annotations

import logging
import pickle
import threading
from typing import Any

import pytest
from pydantic import SecretStr

from workers.errors import ConfigurationError
from workers.settings import PoolSettings
from workers.xenapi import (
    AnswerLost,
    BadAnswer,
    CallTimedOut,
    HostStarting,
    LoginRefused,
    PoolUnreachable,
    Session,
    SessionLost,
    XapiError,
    XapiFailure,
)
from workers.xenapi.connection import Server


def _said(error: BaseException | None) -> str:
    """All that a log of this error with its causes would say of it."""
    lines = []
    while error is not None:
        lines += [str(error), repr(error), repr(error.args)]
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return "\n".join(lines)


def test_logs_in_with_its_originator_calls_and_logs_out(xapi: Any, password: str) -> None:
    xapi.say("VM.get_by_name_label", ["OpaqueRef:vm"])
    with Session.login("lab", xapi.settings(), originator="cbtfleet/stream") as session:
        assert session.call("VM.get_by_name_label", "web") == ["OpaqueRef:vm"]
        assert session.master_address == xapi.address
        assert len(xapi.sessions) == 1
    assert xapi.calls[0] == ("session.login_with_password", ("backup", password, "1.0", "cbtfleet/stream"))
    assert xapi.methods()[1:] == ["VM.get_by_name_label", "session.logout"]
    assert xapi.sessions == set()
    assert len(xapi.connections) == 1


def test_logs_out_when_the_body_fails_and_keeps_that_error(xapi: Any) -> None:
    xapi.say("session.logout", xapi.fail("INTERNAL_ERROR", "no logout today"))
    with pytest.raises(ZeroDivisionError), Session.login("lab", xapi.settings()):
        raise ZeroDivisionError
    assert xapi.methods() == ["session.login_with_password", "session.logout"]


@pytest.mark.parametrize("how", ["drop", "truncate"])
def test_a_failing_logout_is_only_a_debug_line(xapi: Any, caplog: pytest.LogCaptureFixture, how: str) -> None:
    caplog.set_level(logging.DEBUG, "workers.xenapi")
    xapi.say("session.logout", getattr(xapi, how)())
    session = Session.login("lab", xapi.settings())
    session.logout()
    session.logout()
    assert [record.levelname for record in caplog.records] == ["DEBUG"]
    with pytest.raises(SessionLost, match=r"^pool lab: VM\.get_all: not logged in$"):
        session.call("VM.get_all")


def test_values_come_as_xapi_sends_them(xapi: Any) -> None:
    value = (
        "<struct><member><name>size</name><value>70368744177664</value></member>"
        "<member><name>time</name><value><dateTime.iso8601>20260101T12:00:00Z</dateTime.iso8601></value></member>"
        "<member><name>live</name><value><boolean>1</boolean></value></member></struct>"
    )
    xapi.say("VDI.get_record", xapi.body(_reply(value)))
    with Session.login("lab", xapi.settings()) as session:
        record = session.call("VDI.get_record", "OpaqueRef:vdi")
    assert record == {"size": "70368744177664", "time": "20260101T12:00:00Z", "live": True}


def test_sizes_beyond_32_bits_go_as_text_and_booleans_stay(xapi: Any) -> None:
    with Session.login("lab", xapi.settings()) as session:
        session.call(
            "VDI.create", {"virtual_size": 1 << 41, "sharable": False, "tags": ["a"], "n": [-5, 1 << 31]}
        )
    assert xapi.calls[1][1][1] == {
        "virtual_size": str(1 << 41),
        "sharable": False,
        "tags": ["a"],
        "n": [-5, str(1 << 31)],
    }


def test_a_member_names_the_master(start_xapi: Any) -> None:
    names = ["127.0.3.1", "127.0.3.2"]
    member = start_xapi("127.0.3.1", names=names)
    master = start_xapi("127.0.3.2", port=member.port, names=names)
    both = member.certificate.parent / "both.pem"
    both.write_bytes(member.certificate.read_bytes() + master.certificate.read_bytes())
    member.say("session.login_with_password", member.fail("HOST_IS_SLAVE", master.address))
    with Session.login("lab", member.settings(ca_file=both)) as session:
        assert session.master_address == "127.0.3.2"
        session.call("pool.get_all")
    assert member.methods() == ["session.login_with_password"]
    assert master.methods() == ["session.login_with_password", "pool.get_all", "session.logout"]


def test_a_master_by_ipv6(start_xapi: Any) -> None:
    member = start_xapi("127.0.3.1", tls=False)
    member.say("session.login_with_password", member.fail("HOST_IS_SLAVE", "::1"))
    with pytest.raises(PoolUnreachable, match=rf"cannot connect to \[::1\]:{member.port}: "):
        Session.login("lab", member.settings())


@pytest.mark.parametrize(
    ("named", "where"),
    [
        ("127.0.3.9", "127.0.3.9:1"),
        ("127.0.3.9:2", "127.0.3.9:2"),
        ("fd00::9", "[fd00::9]:1"),
        ("[fd00::9]", "[fd00::9]:1"),
        ("[fd00::9]:2", "[fd00::9]:2"),
    ],
)
def test_where_the_named_master_is(named: str, where: str) -> None:
    settings = PoolSettings(url="https://127.0.3.1:1", username="u", password=SecretStr("p"))
    assert Server.from_settings("lab", settings).at(named).netloc == where


def test_hosts_that_name_each_other_end_after_two_hops(xapi: Any) -> None:
    for _ in range(4):
        xapi.say("session.login_with_password", xapi.fail("HOST_IS_SLAVE", xapi.address))
    with pytest.raises(PoolUnreachable, match="keep naming another master"):
        Session.login("lab", xapi.settings())
    assert len(xapi.calls) == 3


def test_a_master_that_stops_being_one_ends_the_session_of_a_call_that_changes(xapi: Any) -> None:
    xapi.say("VM.destroy", xapi.fail("HOST_IS_SLAVE", "127.0.3.9"))
    with (
        Session.login("lab", xapi.settings()) as session,
        pytest.raises(SessionLost, match="no longer the pool"),
    ):
        session.call("VM.destroy", "OpaqueRef:vm")


def test_a_read_follows_the_master_and_ends_the_session_that_it_had(start_xapi: Any) -> None:
    old, new = start_xapi("127.0.3.1", tls=False), start_xapi("127.0.3.2", tls=False)
    with Session.login("lab", old.settings()) as session:
        [before] = old.sessions
        new.sessions.add(before)  # sessions are in the pool's database, and that has moved
        old.say("VM.get_all", old.fail("HOST_IS_SLAVE", f"127.0.3.2:{new.port}"))
        old.say("session.login_with_password", old.fail("HOST_IS_SLAVE", f"127.0.3.2:{new.port}"))
        assert session.call("VM.get_all") == ""
        assert session.master_address == "127.0.3.2"
        assert before not in new.sessions
    assert new.sessions == set()


def test_a_wrong_password_is_refused_without_saying_it(xapi: Any) -> None:
    with pytest.raises(LoginRefused) as caught:
        Session.login("lab", xapi.settings(password="wrong-password"))
    assert isinstance(caught.value, ConfigurationError)
    assert "user name or password is wrong" in str(caught.value)
    assert 'user "backup"' in str(caught.value)
    assert "wrong-password" not in _said(caught.value)


@pytest.mark.parametrize(
    ("description", "kind", "text"),
    [
        (("HOST_STILL_BOOTING",), HostStarting, "still starting; try again"),
        (("HOST_IN_EMERGENCY_MODE",), PoolUnreachable, "xe pool-emergency-transition-to-master"),
        (("SESSION_AUTHORIZATION_FAILED", "backup", "no role"), LoginRefused, "may not log in"),
        (("RBAC_PERMISSION_DENIED", "session.login", "no"), LoginRefused, "may not call"),
        (("INTERNAL_ERROR", "Not_found"), XapiFailure, "INTERNAL_ERROR: Not_found"),
    ],
)
def test_logins_that_fail(xapi: Any, description: tuple[str, ...], kind: type[XapiError], text: str) -> None:
    xapi.say("session.login_with_password", xapi.fail(*description))
    with pytest.raises(kind, match=text):
        Session.login("lab", xapi.settings(), patience=0)


def test_a_host_that_is_starting_is_waited_for(
    xapi: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "workers.xenapi")
    pauses: list[float] = []
    monkeypatch.setattr("workers.xenapi.members.time.sleep", pauses.append)
    xapi.say("session.login_with_password", *[xapi.fail("HOST_STILL_BOOTING")] * 4)
    with Session.login("lab", xapi.settings()):
        assert pauses == [1, 2, 4, 8]
    assert "still starting" in caplog.text


@pytest.mark.parametrize(
    ("code", "kind"), [("HOST_STILL_BOOTING", HostStarting), ("HOST_IN_EMERGENCY_MODE", PoolUnreachable)]
)
def test_a_host_that_restarts_under_a_session_has_run_nothing(
    xapi: Any, code: str, kind: type[XapiError]
) -> None:
    with Session.login("lab", xapi.settings()) as session:
        xapi.say("VM.snapshot", xapi.fail(code))
        with pytest.raises(kind, match=code):
            session.call("VM.snapshot", "OpaqueRef:vm", "new")
        assert session.lost


def test_a_read_in_an_ended_session_is_made_in_a_new_one(xapi: Any) -> None:
    with Session.login("lab", xapi.settings()) as session:
        [old] = xapi.sessions
        before = session.export_name("1234")
        xapi.sessions.clear()
        assert session.call("VDI.get_nbd_info", "OpaqueRef:vdi") == ""
        assert not session.lost
        assert session.export_name("1234") != before
        assert old not in session.export_name("1234")
    assert xapi.methods().count("session.login_with_password") == 2
    assert xapi.sessions == set()


def test_a_pool_that_ends_every_session_is_not_asked_for_ever(xapi: Any) -> None:
    xapi.say("VM.get_all", *[xapi.fail("SESSION_INVALID", "OpaqueRef:x")] * 5)
    with Session.login("lab", xapi.settings()) as session:
        with pytest.raises(SessionLost):
            session.call("VM.get_all")
        assert session.lost
    assert xapi.methods().count("session.login_with_password") == 2


def test_what_blocks_a_call_that_does_not_answer_is_said(xapi: Any) -> None:
    released = threading.Event()
    xapi.say("VDI.destroy", xapi.hang(released))
    xapi.handlers["VDI.get_record"] = lambda _: {"name_label": "root", "current_operations": {}}
    xapi.handlers["VDI.get_SR"] = lambda _: "OpaqueRef:sr"
    xapi.handlers["SR.get_record"] = lambda _: {
        "name_label": "NFS 1",
        "current_operations": {"OpaqueRef:task": "scan"},
    }
    xapi.handlers["task.get_record"] = lambda _: {
        "name_label": "SR.scan",
        "created": "20260101T01:02:03Z",
        "status": "pending",
    }
    with Session.login("lab", xapi.settings(timeout=0.3)) as session:
        with pytest.raises(CallTimedOut) as caught:
            session.call("VDI.destroy", "OpaqueRef:vdi")
        released.set()
    assert str(caught.value) == (
        "pool lab: VDI.destroy: no answer within 0.3 s; it may still be running; "
        'SR "NFS 1" is held by scan (SR.scan, since 20260101T01:02:03Z)'
    )
    assert xapi.methods().count("VDI.destroy") == 1


def test_an_ended_session_is_not_logged_in_again_for_a_call_that_changes(xapi: Any) -> None:
    with Session.login("lab", xapi.settings()) as session:
        xapi.sessions.clear()
        with pytest.raises(SessionLost, match="log in again") as caught:
            session.call("VM.snapshot", "OpaqueRef:vm", "new")
    assert xapi.methods().count("session.login_with_password") == 1
    assert xapi.methods().count("VM.snapshot") == 1
    assert "OpaqueRef" not in _said(caught.value)


def test_a_failure_keeps_its_code_and_never_shows_a_session(xapi: Any) -> None:
    with Session.login("lab", xapi.settings()) as session:
        own = next(iter(xapi.sessions))
        leak = f"/1234?session_id={own} of OpaqueRef:other"
        xapi.say("VDI.snapshot", xapi.fail("VDI_IN_USE", "OpaqueRef:vdi", "snapshot", leak))
        with pytest.raises(XapiFailure) as caught:
            session.call("VDI.snapshot", "OpaqueRef:vdi")
    failure = caught.value
    assert (failure.code, failure.method) == ("VDI_IN_USE", "VDI.snapshot")
    assert failure.params[:2] == ["OpaqueRef:vdi", "snapshot"]
    assert own not in repr(failure.params)
    shown = _said(failure)
    assert "OpaqueRef" not in shown
    assert "session-" not in shown
    again = pickle.loads(pickle.dumps(failure))
    assert (str(again), again.code, again.params) == (str(failure), failure.code, failure.params)


def _reply(value: str) -> bytes:
    return (
        "<?xml version='1.0'?><methodResponse><params><param><value><struct>"
        "<member><name>Status</name><value>Success</value></member>"
        f"<member><name>Value</name><value>{value}</value></member>"
        "</struct></value></param></params></methodResponse>"
    ).encode()


@pytest.mark.parametrize(
    "reply",
    [
        {"Value": "no status"},
        {"Status": "Success"},
        {"Status": "Failure"},
        {"Status": "Failure", "ErrorDescription": []},
        {"Status": "Failure", "ErrorDescription": [{"a": "b"}]},
        {"Status": "Perhaps", "Value": ""},
        "a text",
        None,
        b"not XML at all",
        b"",
        b"<?xml version='1.0'?><methodResponse><params></params></methodResponse>",
        b"<?xml version='1.0'?><methodResponse><params><param><value><int>x</int></value></param></params>",
        b"<?xml version='1.0'?><methodResponse><fault><value><struct>"
        b"<member><name>faultCode</name><value><int>1</int></value></member>"
        b"<member><name>faultString</name><value>OpaqueRef:1 failed</value></member>"
        b"</struct></value></fault></methodResponse>",
    ],
)
def test_an_odd_reply_is_one_clear_error_and_the_session_goes_on(xapi: Any, reply: Any) -> None:
    xapi.say(
        "VM.get_all", xapi.body(reply) if isinstance(reply, bytes) else xapi.raw_value(reply), ["OpaqueRef:a"]
    )
    with Session.login("lab", xapi.settings()) as session:
        with pytest.raises(BadAnswer, match=r"^pool lab: VM\.get_all: the answer ") as caught:
            session.call("VM.get_all")
        assert "OpaqueRef" not in str(caught.value)
        assert session.call("VM.get_all") == ["OpaqueRef:a"]


@pytest.mark.parametrize(("status", "text"), [(500, "300 KiB"), (431, "header is too long"), (503, "busy")])
def test_http_errors(xapi: Any, status: int, text: str) -> None:
    xapi.say("VM.get_all", xapi.body(b"<html>", status, "busy"))
    with Session.login("lab", xapi.settings()) as session, pytest.raises(BadAnswer, match=text):
        session.call("VM.get_all")
    assert xapi.sessions == set()


def test_another_thread_may_not_use_it(xapi: Any) -> None:
    caught: list[BaseException] = []

    def use() -> None:
        try:
            session.call("VM.get_all")
        except RuntimeError as error:
            caught.append(error)

    with Session.login("lab", xapi.settings()) as session:
        thread = threading.Thread(target=use)
        thread.start()
        thread.join()
    assert "another thread" in str(caught[0])
    assert "VM.get_all" not in xapi.methods()


def test_no_answer_in_time(xapi: Any) -> None:
    released = threading.Event()
    xapi.say("VM.snapshot", xapi.hang(released))
    with Session.login("lab", xapi.settings(timeout=0.3)) as session:
        with pytest.raises(CallTimedOut, match=r"VM\.snapshot: no answer within 0\.3 s"):
            session.call("VM.snapshot", "OpaqueRef:vm", "new")
        released.set()
    assert xapi.methods().count("VM.snapshot") == 1
    assert xapi.sessions == set()


def test_an_answer_that_trickles_for_ever(xapi: Any) -> None:
    released = threading.Event()
    xapi.say("VM.get_all", xapi.trickle(released))
    with Session.login("lab", xapi.settings(timeout=0.3)) as session:
        with pytest.raises(CallTimedOut):
            session.call("VM.get_all")
        released.set()


@pytest.mark.parametrize("how", ["drop", "truncate"])
def test_a_lost_answer_is_never_asked_for_again(xapi: Any, how: str) -> None:
    xapi.say("VM.snapshot", getattr(xapi, how)())
    with Session.login("lab", xapi.settings()) as session:
        with pytest.raises(AnswerLost, match=r"pool lab: VM\.snapshot: "):
            session.call("VM.snapshot", "OpaqueRef:vm", "new")
        assert session.call("VM.get_all") == ""
    assert xapi.methods().count("VM.snapshot") == 1


def test_a_connection_closed_while_idle_is_replaced_before_sending(xapi: Any) -> None:
    closed = threading.Event()
    xapi.say("VM.get_all", xapi.then_close([], closed))
    with Session.login("lab", xapi.settings()) as session:
        session.call("VM.get_all")
        assert closed.wait(5)
        session.call("VM.snapshot", "OpaqueRef:vm", "new")
        session.call("VM.get_all")
    assert xapi.methods().count("VM.snapshot") == 1
    assert len(xapi.connections) == 4, "none is kept any more, not even for the logout"


def test_a_read_whose_kept_connection_breaks_is_made_again_and_none_is_kept_then(xapi: Any) -> None:
    with Session.login("lab", xapi.settings()) as session:
        xapi.say("VM.get_all", xapi.drop(), ["OpaqueRef:vm"], xapi.drop())
        assert session.call("VM.get_all") == ["OpaqueRef:vm"]
        with pytest.raises(AnswerLost):
            session.call("VM.get_all")
    assert xapi.methods()[1:] == ["VM.get_all"] * 3 + ["session.logout"]
    assert len(xapi.connections) == 4


def test_an_old_connection_is_not_trusted(xapi: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workers.xenapi.transport._REUSE_SECONDS", -1.0)
    with Session.login("lab", xapi.settings()) as session:
        session.call("VM.get_all")
    assert len(xapi.connections) == 3


def test_a_call_interrupted_while_it_waits_still_logs_out(xapi: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    class Stop(BaseException):
        pass

    def interrupt(*_: Any) -> Any:
        raise Stop

    def interrupted() -> None:
        with Session.login("lab", xapi.settings()) as session, monkeypatch.context() as patch:
            patch.setattr("workers.xenapi.connection.Connection.getresponse", interrupt, raising=False)
            session.call("VM.get_all")

    released = threading.Event()
    xapi.say("VM.get_all", xapi.hang(released))
    with pytest.raises(Stop):
        interrupted()
    assert xapi.sessions == set()
    released.set()
