"""Logging in, members, roles, and the checks that come before a call."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
import XenAPI

from infra.simulator import SimulatedPool, Timing, UserSpec
from infra.simulator.calls.session import collect_sessions, open_session

Fails = Callable[..., list[str]]


def test_a_wrong_password_costs_time_and_is_named(start_pool: Any, login: Any) -> None:
    pool = start_pool(timing=Timing(login_failure_delay=0.3))
    started = time.monotonic()
    with pytest.raises(XenAPI.Failure) as caught:
        login(pool, password="wrong")
    assert time.monotonic() - started >= 0.3
    assert caught.value.details[:2] == ["SESSION_AUTHENTICATION_FAILED", "root"]
    assert Timing().login_failure_delay == 5


def test_members_send_everybody_to_the_master(
    pool: SimulatedPool, login: Any, api: Any, failure: Fails
) -> None:
    with pytest.raises(XenAPI.Failure) as caught:
        login(pool, host=1)
    assert caught.value.details == ["HOST_IS_SLAVE", "127.0.1.1"]
    from infra.simulator.dispatch import dispatch
    from infra.simulator.failures import Failure

    member = pool.state.hosts[1]
    with pytest.raises(Failure, match="HOST_IS_SLAVE"):
        dispatch(pool.state, member, "VM.get_all", [api.ref])
    with pytest.raises(Failure, match="SESSION_INVALID"):
        dispatch(pool.state, member, "VM.get_all", ["OpaqueRef:nobody"])


def test_what_is_wrong_with_a_call(api: Any, vm: Any, failure: Fails) -> None:
    disk = vm.disks[0]
    nobody = "OpaqueRef:00000000-0000-0000-0000-000000000000"
    uuid = api.VDI.get_uuid(disk)
    api.VDI.add_to_other_config(disk, "mark", "1")
    table: list[tuple[Callable[..., Any], tuple[Any, ...], list[str]]] = [
        (api.VDI.get_record, (nobody,), ["HANDLE_INVALID", "VDI", nobody]),
        (api.VM.get_by_uuid, ("none",), ["UUID_INVALID", "VM", "none"]),
        (
            api.VDI.add_to_other_config,
            (disk, "mark", "2"),
            ["MAP_DUPLICATE_KEY", "VDI", "other_config", uuid, "mark"],
        ),
        (api.VDI.get_uuid, (), ["MESSAGE_PARAMETER_COUNT_MISMATCH", "VDI.get_uuid", "1", "0"]),
        (api.VDI.get_uuid, (disk, disk), ["MESSAGE_PARAMETER_COUNT_MISMATCH", "VDI.get_uuid", "1", "2"]),
        (api.VDI.fly, (disk,), ["MESSAGE_METHOD_UNKNOWN", "VDI.fly"]),
        (api.VM.destroy, (vm.ref,), ["VM_BAD_POWER_STATE", vm.ref, "halted", "running"]),
    ]
    for call, args, expected in table:
        assert failure(call, *args) == expected
    assert failure(getattr(api.Async.VDI, "get_nbd_info"), disk)[0] == "Fault"  # noqa: B009


def test_the_old_name_of_a_call_and_ints_as_text(api: Any, pool: SimulatedPool, vm: Any) -> None:
    from infra.simulator.dispatch import dispatch

    old = dispatch(pool.state, pool.state.hosts[0], "VDI_get_virtual_size", [api.ref, vm.disks[0]])
    assert old == 4 << 20
    assert api.VDI.get_virtual_size(vm.disks[0]) == "4194304"


@pytest.mark.parametrize(
    ("role", "allowed", "denied"),
    [
        ("read-only", "VDI.get_all", "VDI.list_changed_blocks"),
        ("vm-operator", "VDI.list_changed_blocks", "VDI.snapshot"),
        ("vm-admin", "VDI.snapshot", "VM.snapshot"),
        ("vm-power-admin", "VM.snapshot", "network.add_purpose"),
    ],
)
def test_roles(start_pool: Any, login: Any, role: str, allowed: str, denied: str) -> None:
    pool = start_pool(users=(UserSpec("backup", "pw", role),))
    api = login(pool, "backup", "pw")
    arguments = {"VDI.get_all": (), "VDI.list_changed_blocks": ("a", "b"), "VM.snapshot": ("a", "b")}
    for method in (allowed, denied):
        cls, name = method.split(".")
        try:
            getattr(getattr(api, cls), name)(
                *arguments.get(method, ("a", "nbd")[: 2 if cls == "network" else 1])
            )
            code = "none"
        except XenAPI.Failure as failed:
            code = failed.details[0]
            details = failed.details
        assert (code == "RBAC_PERMISSION_DENIED") == (method == denied)
    assert details[1] == denied.lower()


def test_old_and_superfluous_sessions_are_collected(start_pool: Any) -> None:
    state = start_pool().state
    with state.lock:
        anonymous = [open_session(state, state.hosts[0], "root", "") for _ in range(403)]
        named = [open_session(state, state.hosts[0], "root", "cbtfleet") for _ in range(499)]
        for age, ref in enumerate(reversed(anonymous[:3])):
            used = state.now() - timedelta(minutes=1 + age)
            state.database.update("session", ref, last_active=used)
        old = state.now() - timedelta(hours=25)
        state.database.update("session", named[0], last_active=old)
        collect_sessions(state)
        left = set(state.database.refs("session"))
    assert not left & {*anonymous[:3], named[0]}
    assert left == {*anonymous[3:], *named[1:]}


def test_log_out_ends_a_session(api: Any, failure: Fails, pool: SimulatedPool) -> None:
    before = pool.leftovers()["sessions"]
    api.session.logout()
    assert pool.leftovers()["sessions"] == before - 1


def test_queries(api: Any, vm: Any, failure: Fails) -> None:
    disk = vm.disks[0]
    by_uuid = f'field "uuid"="{api.VDI.get_uuid(disk)}"'
    assert list(api.VDI.get_all_records_where(by_uuid)) == [disk]
    text = f'{by_uuid} and not (field "type"="system") and field "cbt_enabled"="true"'
    assert list(api.VDI.get_all_records_where(text)) == [disk]
    assert vm.ref in api.VM.get_all_records_where('field "name__label"="guest" or false')
    assert set(api.VDI.get_all_records_where("true")) == set(api.VDI.get_all())
    for bad in ("", 'field "nothing"="1"', 'field "name_label"="x"', '"a">"b"', "(true", "true true"):
        assert failure(api.VDI.get_all_records_where, bad)[0] == "INVALID_VALUE"
