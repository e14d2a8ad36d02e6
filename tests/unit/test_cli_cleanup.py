"""`cbtfleet cleanup`: what it shows, what it removes, how it ends."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from infra.simulator import DiskSpec, PoolSpec, SimulatedPool, VmSpec
from scheduler.pool_objects.ownership import OwnershipTag
from scheduler.pool_objects.snapshots import snapshot_name
from scheduler.runs.facts import create_run
from tests.command_line import CONFIGURATION, CommandLine
from tests.run_records import run_facts, run_result
from workers.fleet import Ledger
from workers.repository import Repository, load_metadata_keys, open_store
from workers.settings import load_settings
from workers.xenapi import Session

RUN = "20261122T010203Z-3fa9c1"


@pytest.fixture
def pool(cbtfleet: CommandLine, redis_url: str, tmp_path: Path) -> Iterator[SimulatedPool]:
    spec = PoolSpec(hosts=1, vms=(VmSpec("db", (DiskSpec(1 << 20, "root"),)),))
    with SimulatedPool.start(spec, tmp_path / "pool") as pool:
        cbtfleet.configure(
            CONFIGURATION
            + f'[redis]\nurl = "{redis_url}"\n[pools.lab]\nurl = "{pool.url}"\nusername = "root"\n'
            + f'password_file = "{pool.password_file}"\nca_file = "{pool.ca_file}"\n'
        )
        cbtfleet("init", "--unencrypted")
        yield pool


def leave_a_snapshot(cbtfleet: CommandLine, pool: SimulatedPool) -> None:
    """Of a run that has ended."""
    settings = load_settings(cbtfleet.config)
    store = open_store(settings.repository)
    repository = Repository.open(store, load_metadata_keys(store, settings.repository))
    ledger = Ledger.from_url(settings.redis_url())
    create_run(ledger, RUN, run_facts())
    ledger.end_run(RUN, run_result(run=RUN).write())
    ledger.close()
    [vm] = pool.vms()
    with Session.login("lab", settings.pool("lab")) as session:
        ref = session.call("VM.snapshot", session.call("VM.get_by_uuid", vm["uuid"]), snapshot_name(RUN))
        [vbd] = session.call("VM.get_record", ref)["VBDs"]
        disk = session.call("VBD.get_record", vbd)["VDI"]
        uuid = session.call("VDI.get_uuid", disk)
        OwnershipTag(RUN, repository.repository_id, uuid, vm["uuid"], vm["disks"][0]["vdi"], "Running").write(
            session, disk
        )
    store.close()


def test_shown_first_then_removed(cbtfleet: CommandLine, pool: SimulatedPool) -> None:
    assert "Nothing is left" in cbtfleet("cleanup").out
    leave_a_snapshot(cbtfleet, pool)
    shown = cbtfleet("cleanup", "--dry-run", "--pool", "lab")
    assert shown.code == 0
    assert f"would be removed: run {RUN} has ended" in shown.out
    assert shown.out.splitlines()[-1] == "2 would be removed, 0 would stay."
    assert len(pool.leftovers()["vm_snapshots"]) == 1
    done = cbtfleet.json("cleanup")
    assert [(row["kind"], row["run"], row["stays"]) for row in done["leftovers"]] == [
        ("VM snapshot", RUN, None),
        ("disk snapshot", RUN, None),
    ]
    assert (pool.leftovers()["vm_snapshots"], pool.leftovers()["vdi_snapshots"]) == ([], [])


def test_what_stays_is_a_failure(cbtfleet: CommandLine, pool: SimulatedPool) -> None:
    leave_a_snapshot(cbtfleet, pool)
    pool.add_fault(xapi="VM.destroy", failure=["INTERNAL_ERROR", "oops"], count=1)
    done = cbtfleet("cleanup")
    assert done.code == 1
    assert "stays: pool lab: VM.destroy failed" in done.out


def test_a_pool_that_does_not_answer_is_a_failure_too(cbtfleet: CommandLine, pool: SimulatedPool) -> None:
    pool.stop()
    done = cbtfleet("cleanup", "--json")
    assert done.code == 1
    assert done.json["leftovers"] == []
    [line] = done.json["errors"]
    assert "pool lab" in line


def test_a_pool_that_is_not_configured(cbtfleet: CommandLine, pool: SimulatedPool) -> None:
    assert cbtfleet("cleanup", "--pool", "other").code == 2
