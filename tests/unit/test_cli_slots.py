"""`cbtfleet slots`: every slot in words, and an operator's release."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from infra.simulator import PoolSpec, SimulatedPool
from scheduler.checks.ledger_facts import read_ledger
from scheduler.checks.slots import check_slots
from scheduler.hosts.slot_report import troubles, waits_for
from scheduler.runs.facts import create_run
from scheduler.runs.values import VmFacts
from tests.command_line import CONFIGURATION, CommandLine
from tests.fleet_clock import FULL_DISK, disk_work
from tests.run_records import run_facts
from workers.fleet import Grant, Host, Ledger, Outcome, Slot
from workers.settings import load_settings

HOST = "11111111-2222-4333-8444-555555555555"
AWAY = """
[pools.lab]
url = "https://127.0.0.1:1"
username = "backup"
password = "s3cret-pool"
timeout = 1
"""


@pytest.fixture
def ledger(redis_url: str) -> Iterator[Ledger]:
    ledger = Ledger.from_url(redis_url)
    ledger.found()
    yield ledger
    ledger.close()


def granted(ledger: Ledger, host: str) -> Grant:
    """A grant for the disk "data" of VM "db"; nobody counts here, so nothing has to be confirmed."""
    create_run(ledger, "run", run_facts())
    ledger.add_vms("run", {"vm": VmFacts("db").write()})
    ledger.set_host("lab", host, 2)
    facts = replace(FULL_DISK, vm_name="db", name="data")
    ledger.start_vm("run", "vm", [replace(disk_work("disk", 1, hosts=(host,)), facts=facts)])
    ledger.node_alive("node", 1)
    [grant] = ledger.admit()
    return grant


def test_slots_with_their_owners_and_a_release(
    cbtfleet: CommandLine, ledger: Ledger, redis_url: str, tmp_path: Path
) -> None:
    with SimulatedPool.start(PoolSpec(hosts=2), tmp_path / "pool") as pool:
        cbtfleet.configure(
            CONFIGURATION
            + f'[redis]\nurl = "{redis_url}"\n[pools.lab]\nurl = "{pool.url}"\nusername = "root"\n'
            + f'password_file = "{pool.password_file}"\nca_file = "{pool.ca_file}"\n'
        )
        assert cbtfleet.json("slots") == {"hosts": []}
        known = pool.hosts[1]
        grant = granted(ledger, known.uuid)
        assert ledger.claim(grant, owner="node/1") is not None
        for wanted in (known.uuid, known.name, known.name.upper(), known.addresses[0]):
            [host] = cbtfleet.json("slots", "--pool", "lab", "--host", wanted)["hosts"]
            assert (host["host"], host["name"], host["cap"], host["used"]) == (known.uuid, known.name, 2, 1)
        [held, free] = host["slots"]
        assert (held["state"], held["owner"], held["run"]) == ("OPENING", "node/1", "run")
        assert (held["vm"], held["name"], held["disk"]) == ("db", "data", "disk")
        assert held["waits_for"] == "the host to open the connection"
        assert (free["state"], free["owner"], free["waits_for"], free["stuck"]) == ("FREE", None, None, False)
        shown = cbtfleet("slots")
        assert f"Host {known.name}" in shown.out
        assert "OPENING" in shown.out
        assert 'no host "xen9"' in cbtfleet("slots", "--host", "xen9").said
        done = cbtfleet.json("slots", "--host", known.name, "--release", str(grant.slot))
        assert (done["was"], done["state"]) == ("OPENING", "QUARANTINE")
        assert not ledger.opened(grant, owner="node/1"), "its stream is told"
        assert (
            "has no slot 1 that is not free" in cbtfleet("slots", "--host", known.name, "--release", "1").said
        )
        assert pool.leftovers()["sessions"] == 0


def test_a_pool_that_is_away_costs_the_names_alone(
    cbtfleet: CommandLine, ledger: Ledger, redis_url: str
) -> None:
    cbtfleet.configure(CONFIGURATION + f'[redis]\nurl = "{redis_url}"\n' + AWAY)
    grant = granted(ledger, HOST)
    shown = cbtfleet("slots")
    assert (shown.code, HOST in shown.out) == (0, True)
    assert "hosts are shown without names" in shown.err
    assert "GRANTED" in shown.out
    assert "a worker process to claim it" in shown.out
    released = cbtfleet("slots", "--host", HOST, "--release", str(grant.slot))
    assert (released.code, released.out) == (0, f"Slot {grant.slot} of host {HOST}: GRANTED -> FREE.\n")
    assert ledger.claim(grant, owner="node/1") is None


def test_wrong_usage(cbtfleet: CommandLine, redis_url: str) -> None:
    cbtfleet.configure(CONFIGURATION + f'[redis]\nurl = "{redis_url}"\n')
    assert "--release needs --host" in cbtfleet("slots", "--release", "1").said
    assert 'no pool "lab"' in cbtfleet("slots", "--pool", "lab").said


def slot(state: str = "QUARANTINE", *, stuck: bool = False, left: float = 0.0) -> Slot:
    return Slot(3, state, "", "disk", "run", 1, left, 90.0, stuck)  # type: ignore[arg-type]


def a_host(**values: object) -> Host:
    normal = {
        "pool": "lab",
        "host": HOST,
        "cap": 16,
        "lowered": 0,
        "rejects": 0,
        "circuit_left": 0.0,
        "used": 0,
        "unaccounted": 0,
        "others": 0,
        "waived": 0,
        "counted_ago": 2.0,
        "effective_cap": 16,
    }
    return Host(**{**normal, **values})  # type: ignore[arg-type]


def test_what_a_slot_waits_for() -> None:
    assert waits_for(slot(left=4.2)) == "the end of its rest, 4 s"
    assert waits_for(slot()) == "a count of the host's connections"
    assert waits_for(slot(stuck=True)) == "the host to let go of the disk"


@pytest.mark.parametrize(
    ("host", "slots", "said"),
    [
        (a_host(), [slot(stuck=True)], "slot 3 is stuck: its connection ended 90 s ago"),
        (a_host(), [slot(stuck=True)], f"cbtfleet slots --pool lab --host {HOST} --release 3"),
        (a_host(unaccounted=2), [], "2 connections of ours that no slot explains"),
        (a_host(counted_ago=None, effective_cap=0), [], "not counted yet, so nothing is opened there"),
        (a_host(circuit_left=12.0), [], "one is tried in 12 s"),
        (a_host(lowered=1), [], "1 connection fewer used for now"),
    ],
)
def test_troubles_name_the_host_and_what_to_do(host: Host, slots: list[Slot], said: str) -> None:
    [line] = troubles(host, slots, "xen1")
    assert line.startswith("host xen1: ")
    assert said in line


def test_nothing_wrong_is_no_line() -> None:
    assert troubles(a_host(), [slot(left=3), slot("HELD"), slot()], "xen1") == []


def test_the_doctor_looks_at_slots(
    cbtfleet: CommandLine, ledger: Ledger, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    cbtfleet.configure(CONFIGURATION + f'[redis]\nurl = "{redis_url}"\n' + AWAY)
    settings = load_settings(cbtfleet.config)
    assert check_slots(read_ledger(settings)) == []
    grant = granted(ledger, HOST)
    [check] = check_slots(read_ledger(settings))
    assert (check.name, check.state, check.said) == (
        "slots",
        "ok",
        "none is stuck; 1 in use on 1 known hosts",
    )
    assert ledger.claim(grant, owner="node/1") is not None
    ledger.release(grant, owner="node/1", outcome=Outcome.CLEAN)
    monkeypatch.setattr("scheduler.checks.slots.troubles", lambda *_: ["slot 0 is stuck"])
    monkeypatch.setattr("scheduler.checks.slots.is_closed", lambda _: True)
    [check] = check_slots(read_ledger(settings))
    assert (check.state, check.said) == ("warning", "slot 0 is stuck")
    assert check.todo == f"cbtfleet slots --pool lab --host {HOST}"
