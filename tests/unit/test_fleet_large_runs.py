"""Calls that go through a run piece by piece, as Redis serves streams too; and who dies meanwhile."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import Any

import pytest
import redis

from tests.fleet_clock import Fleet, disk_work
from workers.fleet import Ledger, LedgerUnreachable, Limits, Outcome, Step, Verdict
from workers.fleet.scripts import Scripts

AT_ONCE = 2
VMS = [f"vm{number}" for number in range(7)]
END_RUN = Step("run", "end-run", "")


@pytest.fixture
def ledger(fleet: Fleet, redis_client: redis.Redis) -> Ledger:
    """With a run of seven VMs, a disk each, of which the last three wait to be planned."""
    ledger = Ledger(redis_client, limits=Limits(vms_at_once=AT_ONCE))
    ledger.found()
    ledger.set_host("lab", "h1", 16)
    ledger.node_alive("node", 8)
    ledger.create_run("run", b"")
    ledger.add_vms("run", dict.fromkeys(VMS, b""))
    for vm in VMS[:4]:
        ledger.start_vm("run", vm, [disk_work(f"{vm}d", 5, vm=vm)])
    ledger.due_steps()
    fleet.ledger = ledger
    return ledger


def die_after(calls: int, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """The caller gets no further than so many calls of this script."""
    call = Scripts.call
    made = []

    def counted(self: Scripts, name: str, *arguments: Any) -> Any:
        if name == script:
            made.append(name)
            if len(made) > calls:
                raise LedgerUnreachable("the caller is gone")
        return call(self, name, *arguments)

    monkeypatch.setattr(Scripts, "call", counted)


def states(ledger: Ledger) -> list[str]:
    return [disk.state for disk in ledger.progress("run").disks]


def test_cancel_goes_through_all_vms(fleet: Fleet, ledger: Ledger) -> None:
    assert ledger.take_permit(Step("run", "plan-vm", "vm4"), "lab", {"pool/lab": 1, "sr/lab/a": 1}) is True
    for vm, storage in (("vm5", "sr/lab/a"), ("vm6", "sr/lab/b")):
        fence = ledger.claim_step(Step("run", "plan-vm", vm), "scheduler")
        assert fence is not None
        assert ledger.take_permit(Step("run", "plan-vm", vm), "lab", {"pool/lab": 1, storage: 1}) is False
        assert ledger.put_off_step(Step("run", "plan-vm", vm), fence, 600)
    assert ledger.cancel("run")
    assert states(ledger) == ["cancelled"] * 4
    due = {(step.name, step.subject) for step in ledger.due_steps()}
    assert due == {("finish-vm", vm) for vm in VMS[:4]} | {("plan-vm", "vm5"), ("plan-vm", "vm6")}


@pytest.mark.parametrize("died_after", [0, 1, 2])
@pytest.mark.parametrize("how", ["cancelled", "stopped"])
def test_sweep_goes_on_where_a_caller_died(
    ledger: Ledger, redis_client: redis.Redis, died_after: int, how: str
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        die_after(died_after, patch, "stop_more")
        with pytest.raises(LedgerUnreachable):
            ledger.cancel("run") if how == "cancelled" else ledger.stop("run", "the window is over")
    end = "cancelled" if how == "cancelled" else "failed"
    assert states(ledger).count(end) == min(died_after * AT_ONCE, 4)
    for _ in range(4):
        ledger.sweep()
    assert states(ledger) == [end] * 4
    assert not redis_client.exists("cbtfleet:stopping")


def test_a_stopped_run_gives_up_what_streams_and_what_is_resumed_later(fleet: Fleet, ledger: Ledger) -> None:
    grant = fleet.hold()
    ledger.commit(grant, ledger.take(grant).batch or 0, 1, 1)
    assert ledger.stop("run", "the window is over") == 4
    assert ledger.stop("run", "the window is over") is None
    assert ledger.commit(grant, 1, 1, 1).verdict is Verdict.EMPTY
    done = replace(disk_work("done", 2, vm="vm4"), done=frozenset({0, 1}))
    ledger.start_vm("run", "vm4", [done, disk_work("not", 2, vm="vm4")])
    assert {(disk.state, disk.error) for disk in ledger.progress("run").disks if disk.disk != "done"} == {
        ("failed", "the window is over")
    }
    assert [(disk.disk, disk.state) for disk in ledger.vm_disks("run", "vm4")] == [
        ("done", "complete"),
        ("not", "failed"),
    ]
    assert ledger.admit() == []
    assert ledger.cancel("run"), "a person may still cancel it"
    assert ledger.stop("run", "the window is over") is None


def test_a_run_does_not_end_before_all_its_vms_are_there(fleet: Fleet, ledger: Ledger) -> None:
    ledger.create_run("next", b"")
    with pytest.MonkeyPatch.context() as patch:
        die_after(2, patch, "add_vms")
        with pytest.raises(LedgerUnreachable):
            ledger.add_vms("next", dict.fromkeys(VMS, b""))
    assert [vm.vm for vm in ledger.progress("next").vms] == VMS[:4]
    for vm in VMS[:4]:
        ledger.finish_vm("next", vm)
    assert Step("next", "end-run", "") not in ledger.due_steps()
    ledger.add_vms("next", dict.fromkeys(VMS, b""))
    for vm in VMS[4:]:
        assert Step("next", "end-run", "") not in ledger.due_steps()
        ledger.finish_vm("next", vm)
    assert Step("next", "end-run", "") in ledger.due_steps()


def test_a_run_whose_vms_could_not_all_be_added_ends_with_those_it_has(fleet: Fleet, ledger: Ledger) -> None:
    ledger.create_run("next", b"")
    with pytest.MonkeyPatch.context() as patch:
        die_after(1, patch, "add_vms")
        with pytest.raises(LedgerUnreachable):
            ledger.add_vms("next", dict.fromkeys(VMS, b""))
    ledger.finish_vm("next", "vm0")
    ledger.finish_vm("next", "vm1")
    ledger.add_vms("next", {})
    assert Step("next", "end-run", "") in ledger.due_steps()


@pytest.mark.parametrize("died_after", [0, 1, 9])
def test_all_keys_of_an_ended_run_expire(ledger: Ledger, redis_client: redis.Redis, died_after: int) -> None:
    ledger.cancel("run")
    for vm in VMS:
        ledger.finish_vm("run", vm)
    with pytest.MonkeyPatch.context() as patch:
        die_after(died_after, patch, "expire_more")
        try:
            ledger.end_run("run", b"cancelled")
        except LedgerUnreachable:
            assert died_after < 9
    ledger.end_run("run", b"another")
    assert ledger.run_result("run") == b"cancelled"
    lasting = {key for key in redis_client.keys("*run*") if redis_client.ttl(key) < 0}
    assert {key for key in lasting if not key.startswith(b"cbtfleet:step")} == {b"cbtfleet:runs"}
    ledger.add_vms("run", {})  # by a plan-run step that is done again


def test_a_vms_disks_are_those_of_the_whole_run(fleet: Fleet, ledger: Ledger) -> None:
    grant = fleet.hold()
    ledger.take(grant)
    ledger.release(grant, Outcome.FAILED, "the host is gone")
    run = ledger.progress("run")
    assert sum(disk.error is not None for disk in run.disks) == 1
    for vm in VMS:
        assert ledger.vm_disks("run", vm) == [disk for disk in run.disks if disk.vm == vm]
    assert ledger.vm_disks("run", "vm6") == []
    assert ledger.disk_facts("run", ["vm0d", "nope"]) == {"vm0d": run.disks[0].facts}
    assert ledger.disk_facts("run", []) == {}


def test_large_facts_are_kept_compressed(ledger: Ledger, redis_client: redis.Redis) -> None:
    facts = b'{"disks": "' + b"a row of a result, " * 10_000 + b'"}'
    ledger.set_run_facts("run", facts)
    ledger.cancel("run")
    for vm in VMS:
        ledger.finish_vm("run", vm, facts)
    ledger.end_run("run", facts)
    assert ledger.run_facts("run") == ledger.run_result("run") == ledger.vm_facts("run", "vm3") == facts
    assert {vm.facts for vm in ledger.progress("run").vms} == {facts}
    assert max(redis_client.hstrlen("cbtfleet:run:run", field) for field in ("facts", "result")) < 10_000
    assert redis_client.hstrlen("cbtfleet:vm:run/vm3", "facts") < 10_000


def test_the_states_of_all_runs(ledger: Ledger) -> None:
    ledger.create_run("next", b"")
    ledger.create_run("last", b"")
    ledger.add_vms("last", {})
    ledger.end_run("last", b"")
    assert ledger.run_states() == {"run": "running", "next": "planning", "last": "ended"}


def test_a_redis_that_is_at_a_long_call_is_asked_again(ledger: Ledger, redis_client: redis.Redis) -> None:
    """Another program's: it says BUSY meanwhile, and does nothing else."""
    redis_client.config_set("busy-reply-threshold", 1)
    asleep = threading.Thread(target=_occupy, args=(redis_client.get_connection_kwargs()["path"],))
    asleep.start()
    try:
        with pytest.raises(LedgerUnreachable, match="is busy with a call"):
            _ask_for_ever(ledger)
    finally:
        redis_client.script_kill()
        asleep.join()
        redis_client.config_set("busy-reply-threshold", 5000)


def _ask_for_ever(ledger: Ledger) -> None:
    while True:
        ledger.run_states()


def _occupy(path: str) -> None:
    with redis.Redis(unix_socket_path=path) as client, pytest.raises(redis.ResponseError):
        client.eval("while true do end", 0)
