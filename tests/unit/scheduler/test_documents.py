"""The JSON that other programs read, key by key and in order: commands, the webhook, hooks."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import redis

from infra.simulator import DiskSpec, PoolSpec, Timing, VmSpec
from scheduler.policies.policy import parse_policies
from scheduler.pool_objects.snapshots import snapshot_name
from scheduler.runs.triggers import Triggers
from tests.command_line import CommandLine
from tests.small_servers import web_service
from tests.unit.scheduler.conftest import Site
from tests.until import until
from workers.xenapi import Session

SPEC = PoolSpec(
    hosts=1,
    vms=(VmSpec("db", (DiskSpec(2 << 20, "root"),)),),
    timing=Timing(login_failure_delay=0.1, data_destroy_wait=0.2, slot_release_delay=0.05),
)
OUTCOME_ROW = [
    "vm",
    "vm_uuid",
    "vdi",
    "mode",
    "reason",
    "changed_bytes",
    "read_bytes",
    "stored_bytes",
    "seconds",
    "point",
    "error",
]
RESULT = [
    "run",
    "status",
    "policy",
    "pool",
    "slot",
    "started",
    "ended",
    "error",
    "warnings",
    "disks",
]
ROW = [
    "vm",
    "vm_uuid",
    "vdi",
    "name",
    "mode",
    "reason",
    "changed_bytes",
    "read_bytes",
    "stored_bytes",
    "seconds",
    "bytes_per_second",
    "point",
    "error",
    "warnings",
]
RUN = [
    "run",
    "status",
    "policy",
    "pool",
    "started",
    "ended",
    "error",
    "disks",
    "failed_disks",
    "read_bytes",
    "stored_bytes",
]
HOST = [
    "pool",
    "host",
    "name",
    "cap",
    "effective_cap",
    "used",
    "unaccounted",
    "others",
    "waived",
    "lowered",
    "closed_for",
    "counted_ago",
    "slots",
    "troubles",
]


def assert_result(result: dict[str, Any]) -> None:
    """In a command, in the webhook and in a hook."""
    assert list(result) == RESULT
    assert [list(row) for row in result["disks"]] == [ROW]
    assert (type(result["warnings"]), type(result["disks"][0]["seconds"])) == (list, float)


@pytest.fixture
def site(make_site: Callable[[PoolSpec], Site], cbtfleet: CommandLine, redis_url: str) -> Site:
    """What `cbtfleet` is configured for too."""
    (cbtfleet.folder / "store").rmdir()
    made = make_site(SPEC)
    cbtfleet.configure(
        f'[repository]\nurl = "file://{{folder}}/store"\n[redis]\nurl = "{redis_url}"\n[pools.lab]\n'
        f'url = "{made.pool.url}"\nusername = "root"\npassword_file = "{made.pool.password_file}"\n'
        f'ca_file = "{made.pool.ca_file}"\n'
    )
    return made


def test_backup_and_what_lists_it_afterwards(
    site: Site, cbtfleet: CommandLine, redis_client: redis.Redis
) -> None:
    def work() -> None:
        until(site.ledger.runs)
        site.work(site.ledger.runs()[0])
        site.log_out()

    fleet = threading.Thread(target=work)
    fleet.start()
    done = cbtfleet.json("backup", "--pool", "lab", "--vm", "db", "--wait")
    fleet.join()
    assert list(done) == ["run", "status", "disks"]
    assert [list(row) for row in done["disks"]] == [OUTCOME_ROW]

    status = cbtfleet.json("status", done["run"])
    assert list(status) == ["run", "state", "cancelled", "disks", "result"]
    assert_result(status["result"])
    redis_client.flushall()  # then the bucket alone has it
    kept = cbtfleet.json("status", done["run"])
    assert kept == {**status, "disks": []}
    assert list(kept) == list(status)
    assert_result(kept["result"])
    [run] = cbtfleet.json("runs")["runs"]
    assert list(run) == RUN
    assert (run["run"], run["disks"]) == (done["run"], 1)
    [point] = cbtfleet.json("points")["points"]
    assert list(point) == ["id", "vm", "vm_uuid", "time", "disks", "run"]
    assert [list(disk) for disk in point["disks"]] == [["vdi", "virtual_size", "sha256"]]


def test_a_run_that_goes_on(site: Site, cbtfleet: CommandLine) -> None:
    site.work(site.submit(), until=lambda step: step == "finish-vm")
    status = cbtfleet.json("status")
    assert list(status) == ["run", "state", "cancelled", "disks", "result"]
    assert status["result"] is None
    [disk] = status["disks"]
    assert list(disk) == [
        "vdi",
        "vm_uuid",
        "name",
        "mode",
        "state",
        "batches",
        "done",
        "changed_bytes",
        "read_bytes",
        "stored_bytes",
        "error",
    ]
    [run] = cbtfleet.json("runs")["runs"]
    assert list(run) == RUN
    assert (run["status"], run["ended"], run["disks"]) == ("running", None, 1)
    found = cbtfleet.json("slots")
    assert list(found) == ["hosts"]
    [host] = found["hosts"]
    assert list(host) == HOST
    assert {tuple(slot) for slot in host["slots"]} == {
        ("number", "state", "owner", "run", "disk", "vm", "name", "age", "waits_for", "stuck")
    }


def test_cleanup(site: Site, cbtfleet: CommandLine) -> None:
    run = site.submit()
    site.work(run)
    with Session.login("lab", site.settings.pool("lab")) as session:
        [vm] = site.pool.vms()
        session.call("VM.snapshot", session.call("VM.get_by_uuid", vm["uuid"]), snapshot_name(run), [])
    found = cbtfleet.json("cleanup", "--dry-run")
    assert list(found) == ["dry_run", "leftovers", "errors"]
    assert found["leftovers"]
    for each in found["leftovers"]:
        assert list(each) == ["pool", "kind", "uuid", "name", "run", "why", "stays"]


def test_the_webhook_and_the_hooks(site: Site, tmp_path: Path) -> None:
    record = ["/bin/sh", "-c", f"cat >> {tmp_path}/hooks"]
    hooks = dict.fromkeys(("before_snapshot", "after_snapshot", "after_run"), record)
    policy = {"pool": "lab", "include": {"names": ["*"]}, "schedule": "* * * * *", "hooks": hooks}
    with web_service() as service:
        webhook = {"url": service.url, "when": "always"}
        sections = {"policies": {"nightly": policy}, "notifications": {"webhook": webhook}}
        site.context = replace(site.context, settings=site.settings.model_copy(update=sections))
        policies = parse_policies(site.context.settings)
        Triggers(site.context, policies, datetime.now(UTC) - timedelta(hours=1)).look(datetime.now(UTC))
        site.work(site.ledger.runs()[0])
        [body] = service.bodies
    assert list(body) == ["text", "subject", "problem", "result"]
    assert_result(body["result"])
    before, after, run = [json.loads(line) for line in (tmp_path / "hooks").read_text().splitlines()]
    of_vm = ["hook", "run", "policy", "pool", "vm", "vm_uuid", "disks"]
    assert list(before) == of_vm
    assert [list(disk) for disk in before["disks"]] == [["vdi", "name", "virtual_size"]]
    assert list(after) == [*of_vm, "snapshot", "error", "before_snapshot", "time"]
    assert list(run) == ["hook", "run", "policy", "result", "forgotten"]
    assert_result(run["result"])
