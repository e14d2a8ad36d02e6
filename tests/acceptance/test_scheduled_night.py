"""A night as it is meant: two schedulers, one run by the schedule, hooks, retention, a notification."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

from scheduler.runs.facts import result_of
from scheduler.runs.triggers import slot_run
from tests.acceptance.conftest import FleetMaker
from tests.run_records import run_result
from tests.small_servers import web_service
from workers.repository import Repository, load_metadata_keys, open_store
from workers.settings import load_settings


def test_two_schedulers_make_one_night_of_a_slot(make_fleet: FleetMaker) -> None:
    with web_service() as service:
        fleet = make_fleet(
            store="file",
            encrypted=False,
            simulator=("--hosts", "1", "--vms", "2", "--disks", "1", "--disk-size", "4MiB"),
        )
        slot = datetime.now(UTC).replace(second=0, microsecond=0)
        before = slot - timedelta(days=1)
        record = ["/bin/sh", "-c", f'cat >> "{fleet.folder}/hooks"; echo noted']
        hooks = ", ".join(
            f"{hook} = {json.dumps(record)}" for hook in ("before_snapshot", "after_snapshot", "after_run")
        )
        with fleet.config.open("a") as file:
            file.write(
                f'schedule = "{slot.minute} {slot.hour} * * *"\nkeep = {{ last = 1 }}\n'
                f"hooks = {{ {hooks} }}\n"
                f'[notifications.webhook]\nurl = "{service.url}"\nwhen = "always"\n'
            )
        settings = load_settings(fleet.config, fleet.environment)
        store = open_store(settings.repository)
        repository = Repository.open(store, load_metadata_keys(store, settings.repository))
        # The night before was made, so this one counts as missed since its minute.
        made = run_result(run=slot_run("nightly", before))
        repository.close_run(made.run, made.write())

        fleet.environment["CBTFLEET_METRICS__SCHEDULER_PORT"] = "0"
        fleet.start("scheduler", "scheduler")
        fleet.start("another", "scheduler")
        fleet.start("worker", "worker", "--concurrency", "2")
        fleet.wait_until(lambda: len(service.bodies) > 0)
        fleet.wait_until(lambda: "ready" in (fleet.folder / "another.log").read_text())
        run = slot_run("nightly", slot)
        [body] = service.bodies
        result = result_of(repository, run)
        points = list(repository.points())
        store.close()
    assert result is not None
    shown = json.loads(json.dumps(result.members()))
    assert body["result"] == shown
    assert body["subject"] == "cbtfleet: policy nightly on pool lab: succeeded"
    assert (result.run, result.slot, len(result.disks)) == (run, f"{slot:%Y-%m-%dT%H:%M:%SZ}", 2)
    assert {point.policy for point in points} == {"nightly"}
    told = [json.loads(line) for line in (fleet.folder / "hooks").read_text().splitlines()]
    assert sorted(facts["hook"] for facts in told) == sorted(
        ["before_snapshot", "after_snapshot"] * 2 + ["after_run"]
    )
    assert told[-1]["result"] == shown
    fleet.stop_all()
    logs = (fleet.folder / "scheduler.log").read_text() + (fleet.folder / "another.log").read_text()
    assert logs.count(f"run {run} ended: succeeded") == 1
    assert "hook after_run said: noted" in logs
