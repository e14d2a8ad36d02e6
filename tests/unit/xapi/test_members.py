"""Finding the master while hosts are away, starting, or not to be trusted."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from typing import Any

import pytest

from workers.xenapi import (
    AnswerLost,
    CallTimedOut,
    HostStarting,
    LoginRefused,
    PoolMemory,
    PoolUnreachable,
    Session,
    explain_pool_nbd,
)

LOGIN = "session.login_with_password"


@pytest.fixture
def members(start_xapi: Any) -> Callable[[int], list[Any]]:
    """Hosts of one pool, without TLS, all at one port as XAPI is."""

    def start(number: int) -> list[Any]:
        first = start_xapi("127.0.3.1", tls=False)
        others = [start_xapi(f"127.0.3.{n}", port=first.port, tls=False) for n in range(2, number + 1)]
        return [first, *others]

    return start


def _memory(*addresses: str) -> PoolMemory:
    return PoolMemory(addresses=addresses)


def _closed_port() -> str:
    """The url of a host that refuses connections."""
    with socket.create_server(("127.0.3.9", 0)) as server:
        return f"http://127.0.3.9:{server.getsockname()[1]}"


def test_when_the_configured_host_is_away_another_member_leads_to_the_master(
    start_xapi: Any, caplog: pytest.LogCaptureFixture
) -> None:
    away = _closed_port()
    port = int(away.rpartition(":")[2])
    member = start_xapi("127.0.3.2", port=port, tls=False)
    master = start_xapi("127.0.3.3", port=port, tls=False)
    member.say(LOGIN, member.fail("HOST_IS_SLAVE", "127.0.3.3"))
    memory = _memory("127.0.3.9", "127.0.3.2", "127.0.3.3")
    with Session.login("lab", master.settings(url=away), memory=memory) as session:
        assert session.master_address == "127.0.3.3"
    assert member.methods() == [LOGIN]
    assert "cannot connect to 127.0.3.9" in caplog.text
    assert "going on with the master 127.0.3.3" in caplog.text


def test_members_that_name_the_master_that_is_away_are_not_followed_there_again(start_xapi: Any) -> None:
    away = _closed_port()
    member = start_xapi("127.0.3.2", port=int(away.rpartition(":")[2]), tls=False)
    member.say(LOGIN, member.fail("HOST_IS_SLAVE", "127.0.3.9"))
    with pytest.raises(PoolUnreachable, match="asked 1 more of its hosts, and none led to a master"):
        Session.login("lab", member.settings(url=away), memory=_memory("127.0.3.9", "127.0.3.2"))
    assert member.methods() == [LOGIN]


def test_a_master_that_broke_down_is_tried_once_however_many_name_it(members: Any) -> None:
    master, *others = members(4)
    for _ in range(5):
        master.say(LOGIN, master.drop())
    for each in others:
        each.say(LOGIN, each.fail("HOST_IS_SLAVE", master.address))
    memory = _memory(*[each.address for each in (master, *others)])
    with pytest.raises(AnswerLost):
        Session.login("lab", master.settings(), memory=memory)
    assert master.methods() == [LOGIN]
    assert [each.methods() for each in others] == [[LOGIN]] * 3


def test_a_password_that_one_of_the_other_hosts_refuses_is_not_tried_on_more(start_xapi: Any) -> None:
    away = _closed_port()
    port = int(away.rpartition(":")[2])
    first, second = (start_xapi(f"127.0.3.{n}", port=port, tls=False) for n in (2, 3))
    settings = first.settings(url=away, password="wrong")
    with pytest.raises(LoginRefused):
        Session.login("lab", settings, memory=_memory("127.0.3.2", "127.0.3.3"))
    assert (first.methods(), second.methods()) == ([LOGIN], [])


def test_a_host_that_names_a_master_that_is_away_is_not_the_last_one_asked(members: Any) -> None:
    old_view, new_master = members(2)
    gone = f"127.0.3.9:{int(_closed_port().rpartition(':')[2])}"
    old_view.say(LOGIN, old_view.fail("HOST_IS_SLAVE", gone))
    with Session.login("lab", old_view.settings(), memory=_memory("127.0.3.2")) as session:
        assert session.master_address == "127.0.3.2"
    assert new_master.sessions == set()


def test_a_member_in_emergency_does_not_hide_the_others(members: Any) -> None:
    emergency, master = members(2)
    emergency.say(LOGIN, emergency.fail("HOST_IN_EMERGENCY_MODE"))
    with Session.login("lab", emergency.settings(), memory=_memory("127.0.3.2")) as session:
        assert session.master_address == master.address


def test_a_configured_host_that_hangs_does_not_hide_the_others(members: Any) -> None:
    hanging, master = members(2)
    released = threading.Event()
    hanging.say(LOGIN, hanging.hang(released))
    with Session.login("lab", hanging.settings(timeout=0.3), memory=_memory("127.0.3.2")) as session:
        assert session.master_address == master.address
    hanging.say(LOGIN, hanging.hang(released))
    with pytest.raises(CallTimedOut):
        Session.login("lab", hanging.settings(timeout=0.3))
    released.set()


def test_a_pool_that_is_starting_all_over_is_said_to_be(members: Any) -> None:
    first, second = members(2)
    first.say(LOGIN, first.fail("HOST_STILL_BOOTING"))
    second.say(LOGIN, second.fail("HOST_STILL_BOOTING"))
    with pytest.raises(HostStarting, match="still starting"):
        Session.login("lab", first.settings(), memory=_memory("127.0.3.2"), patience=0)


def test_a_refused_password_is_not_tried_on_the_other_hosts(members: Any) -> None:
    first, second = members(2)
    with pytest.raises(LoginRefused):
        Session.login("lab", first.settings(password="wrong"), memory=_memory("127.0.3.2"))
    assert second.calls == []


def test_a_member_that_is_not_trusted_gets_no_password_and_the_next_is_asked(start_xapi: Any) -> None:
    away = _closed_port()
    port = int(away.rpartition(":")[2])
    stranger = start_xapi("127.0.3.2", port=port)
    master = start_xapi("127.0.3.3", port=port)
    memory = _memory("127.0.3.2", "127.0.3.3")
    settings = master.settings(url=away.replace("http:", "https:"))
    with Session.login("lab", settings, memory=memory) as session:
        assert session.master_address == "127.0.3.3"
    assert stranger.bytes_in == 0


def test_a_large_pool_is_not_asked_through(start_xapi: Any) -> None:
    away = _closed_port()
    member = start_xapi("127.0.3.2", port=int(away.rpartition(":")[2]), tls=False)
    for _ in range(20):
        member.say(LOGIN, member.fail("INTERNAL_ERROR", "Db is not ready"))
    memory = _memory(*[f"127.0.3.2:{member.port}"] * 20)
    with pytest.raises(PoolUnreachable, match="asked 8 more of its hosts"):
        Session.login("lab", member.settings(url=away), memory=memory)


def test_the_hosts_are_learnt_with_the_pools_records(xapi: Any) -> None:
    xapi.handlers["host.get_all_records"] = lambda: {
        "OpaqueRef:a": {"uuid": "a", "name_label": "a", "address": "10.0.0.1", "metrics": "OpaqueRef:m"},
        "OpaqueRef:b": {"uuid": "b", "name_label": "b", "address": "10.0.0.2", "metrics": "OpaqueRef:n"},
        "OpaqueRef:c": {"uuid": "c", "name_label": "c", "address": "", "metrics": "OpaqueRef:n"},
    }
    xapi.handlers["host_metrics.get_all_records"] = lambda: {"OpaqueRef:m": {"live": False}}
    for kind in ("PIF", "network"):
        xapi.handlers[f"{kind}.get_all_records"] = dict
    memory = PoolMemory()
    with Session.login("lab", xapi.settings(), memory=memory) as session:
        explain_pool_nbd(session)
    assert memory.addresses == ("10.0.0.2", "10.0.0.1"), "live ones first"
