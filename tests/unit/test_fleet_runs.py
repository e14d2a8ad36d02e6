"""Runs, VMs, disks and control steps in the ledger, on injected time."""

from __future__ import annotations

import dataclasses

import pytest
import redis

from tests.fleet_clock import FULL_DISK, START, Fleet, disk_work
from workers.fleet import LedgerError, Limits, Outcome, Step, Timing, UnknownToLedger, Verdict, scripts

TIMING = Timing()
PLAN_RUN = Step("run", "plan-run", "")
PLAN_VM = Step("run", "plan-vm", "vm")
FINISH_VM = Step("run", "finish-vm", "vm")
END_RUN = Step("run", "end-run", "")


def test_a_run_from_start_to_end(fleet: Fleet) -> None:
    ledger = fleet.ledger
    assert ledger.found()
    assert ledger.create_run("run", b"the run's")
    assert not ledger.create_run("run", b"")
    assert ledger.run_facts("run") == b"the run's"
    assert ledger.run_state("run") == "planning"
    assert ledger.due_steps() == [PLAN_RUN]

    ledger.add_vms("run", {"vm": b"the VM's"})
    assert ledger.run_state("run") == "running"
    assert ledger.due_steps() == [PLAN_VM]
    ledger.set_vm_facts("run", "vm", b"more")
    assert ledger.vm_facts("run", "vm") == b"more"

    ledger.set_host("lab", "h1", 16)
    ledger.node_alive("node", 8)
    assert ledger.start_vm("run", "vm", [disk_work("d1", 1), disk_work("empty", 0)])
    assert ledger.due_steps() == []
    assert ledger.plan("run", "d1") == b"\x00packed\xff"
    with pytest.raises(UnknownToLedger, match="disk empty of run run has no plan"):
        ledger.plan("run", "empty")
    grant = fleet.hold()
    assert ledger.take(grant).batch == 0
    fleet.clock.advance(2)
    assert ledger.commit(grant, 0, 100, 50).verdict is Verdict.EMPTY
    assert ledger.due_steps() == [FINISH_VM]
    with pytest.raises(UnknownToLedger):
        ledger.plan("run", "d1")

    with pytest.raises(LedgerError, match="has 1 VMs that are not finished"):
        ledger.end_run("run", b"")
    ledger.finish_vm("run", "vm", b"the last")
    ledger.finish_vm("run", "vm", b"too late")
    assert ledger.due_steps() == [END_RUN]
    assert ledger.run_result("run") is None
    ledger.end_run("run", b"succeeded")
    ledger.end_run("run", b"failed")
    assert ledger.run_state("run") == "ended"
    assert ledger.run_result("run") == b"succeeded"

    progress = ledger.progress("run")
    assert (progress.state, progress.cancelled) == ("ended", False)
    assert (progress.created, progress.ended) == (START, START + 2)
    assert [(vm.vm, vm.state, vm.facts) for vm in progress.vms] == [("vm", "finished", b"the last")]
    disk, empty = progress.disks
    assert (disk.disk, disk.vm, disk.state, disk.batches, disk.done) == ("d1", "vm", "complete", 1, 1)
    assert (disk.read_bytes, disk.stored_bytes, disk.started, disk.ended) == (100, 50, START, START + 2)
    assert (disk.error, disk.facts) == (None, FULL_DISK)
    assert (empty.state, empty.batches, empty.ended) == ("complete", 0, START)


def test_an_ended_run_expires_whole(fleet: Fleet, redis_client: redis.Redis) -> None:
    fleet.start(disk_work("d1", 2), disk_work("d2", 0))
    fleet.ledger.stop("run", "no")
    fleet.ledger.finish_vm("run", "vm")
    fleet.ledger.end_run("run", b"")
    left = {key for key in redis_client.keys("*run*") if redis_client.ttl(key) < 0}
    assert left == {b"cbtfleet:runs"}
    assert 0 < redis_client.ttl("cbtfleet:run:run") <= TIMING.keep_ended
    redis_client.delete("cbtfleet:run:run")
    assert fleet.ledger.runs() == []
    fleet.ledger.create_run("next", b"")
    assert redis_client.zrange("cbtfleet:runs", 0, -1) == [b"next"]


def test_a_run_of_no_vms_goes_straight_to_its_end(fleet: Fleet) -> None:
    fleet.ledger.create_run("run", b"")
    fleet.ledger.add_vms("run", {})
    assert set(fleet.ledger.due_steps()) == {PLAN_RUN, END_RUN}


def test_adding_vms_again_adds_only_the_new_ones(fleet: Fleet) -> None:
    fleet.ledger.create_run("run", b"")
    fleet.ledger.add_vms("run", {"vm": b"first"})
    fleet.ledger.add_vms("run", {"vm": b"again", "vm2": b""})
    assert [(vm.vm, vm.facts) for vm in fleet.ledger.progress("run").vms] == [
        ("vm", b"first"),
        ("vm2", b""),
    ]
    fleet.ledger.finish_vm("run", "vm")
    fleet.ledger.finish_vm("run", "vm")
    assert END_RUN not in fleet.ledger.due_steps()
    fleet.ledger.finish_vm("run", "vm2")
    assert fleet.ledger.due_steps() == [END_RUN]


def test_runs_are_listed_oldest_first(fleet: Fleet) -> None:
    for run in ("b", "a", "c"):
        fleet.ledger.create_run(run, b"")
        fleet.clock.advance(1)
    assert fleet.ledger.runs() == ["b", "a", "c"]


def test_starting_a_vm_again_changes_nothing(fleet: Fleet) -> None:
    fleet.start(disk_work("d1", 4))
    grant = fleet.hold()
    fleet.ledger.take(grant)
    fleet.ledger.commit(grant, 0, 1, 1)
    assert not fleet.ledger.start_vm("run", "vm", [disk_work("d1", 9), disk_work("d2", 9)])
    (disk,) = fleet.ledger.progress("run").disks
    assert (disk.disk, disk.batches, disk.done) == ("d1", 4, 1)


@pytest.mark.parametrize(
    "disks", [[], [disk_work("d1", 0), disk_work("d2", 0)]], ids=["no disk", "nothing changed"]
)
def test_a_vm_with_nothing_to_read_is_ready_to_finish_once(fleet: Fleet, disks: list) -> None:  # type: ignore[type-arg]
    fleet.start(*disks)
    fleet.ledger.start_vm("run", "vm", disks)
    assert sorted(step.name for step in fleet.ledger.due_steps()) == ["finish-vm", "plan-run", "plan-vm"]
    assert fleet.ledger.admit() == []


def test_a_vm_is_ready_to_finish_when_its_last_disk_ends_however_it_ends(fleet: Fleet) -> None:
    fleet.start(disk_work("done", 1), disk_work("failed", 9), disk_work("fatal", 9))
    fleet.ledger.due_steps()
    grants = {grant.disk: grant for grant in (fleet.hold() for _ in range(3))}
    fleet.ledger.release(grants["fatal"], Outcome.FATAL, "the certificate is not the server's")
    fleet.ledger.release(grants["fatal"], Outcome.FATAL, "again")
    fleet.ledger.commit(grants["done"], fleet.ledger.take(grants["done"]).batch or 0, 1, 1)
    assert fleet.ledger.due_steps() == []
    fleet.ledger.stop("run", "the window is over")
    assert fleet.ledger.due_steps() == [FINISH_VM]
    assert {disk.disk: (disk.state, disk.error) for disk in fleet.ledger.progress("run").disks} == {
        "done": ("complete", None),
        "failed": ("failed", "the window is over"),
        "fatal": ("failed", "the certificate is not the server's"),
    }


def test_cancel_stops_streams_and_lets_every_vm_finish(fleet: Fleet) -> None:
    fleet.start(disk_work("d1", 20), disk_work("d2", 20))
    fleet.ledger.add_vms("run", {"later": b""})
    grant = fleet.hold()
    fleet.ledger.take(grant)
    (unclaimed,) = fleet.ledger.admit(1)
    assert not fleet.ledger.is_cancelled("run")
    assert fleet.ledger.cancel("run")
    assert not fleet.ledger.cancel("run")
    assert fleet.ledger.is_cancelled("run")
    assert fleet.ledger.verdicts([grant, unclaimed]) == [Verdict.CANCEL, Verdict.FENCE]
    assert fleet.ledger.commit(grant, 0, 1, 1).verdict is Verdict.CANCEL
    assert fleet.ledger.claim(unclaimed, "node/1") is None
    assert FINISH_VM in fleet.ledger.due_steps()
    assert (fleet.disk("d1").state, fleet.disk("d1").done) == ("cancelled", 0)
    fleet.ledger.start_vm("run", "later", [disk_work("d3", 5, vm="later")])
    assert fleet.disk("d3").state == "cancelled"
    assert fleet.ledger.due_steps() == [Step("run", "finish-vm", "later")]
    assert fleet.ledger.admit() == []


def test_a_vm_that_could_not_be_planned_is_finished_without_disks(fleet: Fleet) -> None:
    fleet.ledger.create_run("run", b"")
    fleet.ledger.add_vms("run", {"vm": b""})
    fleet.ledger.finish_vm("run", "vm", b"the pool is unreachable")
    assert END_RUN in fleet.ledger.due_steps()


def test_a_vm_is_not_finished_over_the_head_of_its_disks(fleet: Fleet) -> None:
    fleet.start(disk_work("d1", 1))
    with pytest.raises(LedgerError, match="still stream"):
        fleet.ledger.finish_vm("run", "vm")


def test_disks_that_cannot_be_streamed_are_refused_whole(fleet: Fleet) -> None:
    fleet.start(disk_work("d1", 1))
    fleet.ledger.add_vms("run", {"vm2": b""})
    with pytest.raises(LedgerError, match="no host of pool lab that sees disk d3 was registered"):
        fleet.ledger.start_vm(
            "run", "vm2", [disk_work("d2", 1, vm="vm2"), disk_work("d3", 1, vm="vm2", hosts=("h9",))]
        )
    with pytest.raises(LedgerError, match="disk d1 is in run run already, with VM vm"):
        fleet.ledger.start_vm("run", "vm2", [disk_work("d2", 1, vm="vm2"), disk_work("d1", 1, vm="vm2")])
    work = dataclasses.replace(disk_work("d2", 1, vm="vm2"), done=frozenset({1}))
    with pytest.raises(ValueError, match="a batch done that it does not have"):
        fleet.ledger.start_vm("run", "vm2", [work])
    with pytest.raises(ValueError, match="weight"):
        fleet.ledger.start_vm("run", "vm2", [disk_work("d2", 1, vm="vm2", weight=0)])
    assert [disk.disk for disk in fleet.ledger.progress("run").disks] == ["d1"]
    assert fleet.ledger.progress("run").vms[1].state == "planning"


def test_what_the_ledger_does_not_know_is_said_in_one_line(fleet: Fleet) -> None:
    ledger = fleet.ledger
    for call in (
        lambda: ledger.run_facts("nope"),
        lambda: ledger.run_state("nope"),
        lambda: ledger.progress("nope"),
        lambda: ledger.add_vms("nope", {"vm": b""}),
        lambda: ledger.start_vm("nope", "vm", []),
        lambda: ledger.vm_facts("nope", "vm"),
        lambda: ledger.set_vm_facts("nope", "vm", b""),
        lambda: ledger.vm_disks("nope", "vm"),
        lambda: ledger.stop("nope", "why"),
        lambda: ledger.finish_vm("nope", "vm"),
        lambda: ledger.end_run("nope", b""),
        lambda: ledger.cancel("nope"),
        lambda: ledger.plan("nope", "disk"),
    ):
        with pytest.raises(UnknownToLedger, match=r"^[^\n]*nope[^\n]*$"):
            call()
    assert not ledger.is_cancelled("nope")
    assert ledger.run_result("nope") is None


@pytest.mark.parametrize("ids", [{"disk": "a/b"}, {"disk": ""}, {"hosts": ("a/b",)}])
def test_ids_with_a_slash_are_refused(fleet: Fleet, ids: dict[str, object]) -> None:
    fleet.start()
    fleet.ledger.add_vms("run", {"vm2": b""})
    with pytest.raises(ValueError, match="slash"):
        fleet.ledger.start_vm("run", "vm2", [dataclasses.replace(disk_work("d1", 1, vm="vm2"), **ids)])  # type: ignore[arg-type]


def test_a_step_is_published_again_only_when_nobody_claimed_it(fleet: Fleet) -> None:
    fleet.ledger.create_run("run", b"")
    assert fleet.ledger.due_steps() == [PLAN_RUN]
    fleet.clock.advance(TIMING.step_republish - 0.001)
    assert fleet.ledger.due_steps() == []
    fleet.clock.advance(0.001)
    assert fleet.ledger.due_steps() == [PLAN_RUN]
    assert fleet.ledger.claim_step(PLAN_RUN, "a") is not None
    assert fleet.ledger.claim_step(PLAN_RUN, "b") is None
    fleet.clock.advance(TIMING.step_lease - 0.001)
    assert fleet.ledger.due_steps() == []


def test_a_step_whose_lease_ran_out_is_anyones_and_its_old_claim_void(fleet: Fleet) -> None:
    fleet.ledger.create_run("run", b"")
    first = fleet.ledger.claim_step(PLAN_RUN, "a")
    assert first is not None
    fleet.clock.advance(50)
    assert fleet.ledger.renew_step(PLAN_RUN, first)
    fleet.clock.advance(50)
    assert fleet.ledger.due_steps() == []
    fleet.clock.advance(10)
    assert fleet.ledger.due_steps() == [PLAN_RUN]
    second = fleet.ledger.claim_step(PLAN_RUN, "b")
    assert second is not None
    assert second > first
    assert fleet.ledger.step_attempts(PLAN_RUN) == 2
    assert not fleet.ledger.renew_step(PLAN_RUN, first)
    assert not fleet.ledger.finish_step(PLAN_RUN, first)
    assert fleet.ledger.finish_step(PLAN_RUN, second)
    assert not fleet.ledger.finish_step(PLAN_RUN, second)
    assert not fleet.ledger.renew_step(PLAN_RUN, second)
    assert fleet.ledger.claim_step(PLAN_RUN, "c") is None
    assert fleet.ledger.step_attempts(PLAN_RUN) == 0
    fleet.clock.advance(1000)
    assert fleet.ledger.due_steps() == []


def test_due_steps_keeps_its_limit(fleet: Fleet) -> None:
    fleet.ledger.create_run("run", b"")
    fleet.ledger.add_vms("run", {f"vm{i}": b"" for i in range(10)})
    assert [len(fleet.ledger.due_steps(4)) for _ in range(4)] == [4, 4, 3, 0]


def test_waiting_for_work_ends_when_there_is_some(fleet: Fleet) -> None:
    fleet.ledger.wait_for_work(0.01)
    fleet.ledger.create_run("run", b"")
    fleet.ledger.wait_for_work(60)
    fleet.ledger.add_vms("run", {f"vm{i}": b"" for i in range(9)})
    fleet.ledger.wait_for_work(60)


def test_the_wake_list_stays_short(fleet: Fleet, redis_client: redis.Redis) -> None:
    fleet.start(*(disk_work(f"d{i}", 2) for i in range(9)))
    assert redis_client.llen("cbtfleet:wake") == 1


def test_every_script_is_composed_of_preludes_that_exist() -> None:
    names = sorted(path.stem for path in scripts.FOLDER.glob("*.lua"))
    assert len(names) > 20
    for name in names:
        text = scripts.compose(scripts.FOLDER, name, TIMING, Limits())
        assert text.count("local function now()") == 1
        assert "lease=30000" in text
