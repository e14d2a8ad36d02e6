"""What the commands show when one run's records cannot be read: one line about it, and all the others."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import closing

import pytest
import redis

from scheduler.connections import open_repository
from scheduler.runs.facts import create_run
from scheduler.runs.values import VmFacts
from scheduler.terminal.waiting import WaitingHints
from tests.command_line import CommandLine
from tests.fleet_clock import disk_work
from tests.run_records import run_facts, run_result
from workers.fleet import Ledger
from workers.settings import load_settings

POOL = '[pools.lab]\nurl = "https://127.0.0.1:1"\nusername = "backup"\npassword = "x"\ntimeout = 1\n'
ANOTHER_VERSION = "it was written by another version of cbtfleet; use that one, or upgrade this one"


@pytest.fixture
def site(cbtfleet: CommandLine, redis_url: str) -> CommandLine:
    cbtfleet.configure(
        '[repository]\nurl = "file://{folder}/store"\n' + POOL + f'[redis]\nurl = "{redis_url}"\n'
    )
    assert cbtfleet("init", "--unencrypted").code == 0
    return cbtfleet


@pytest.fixture
def ledger(site: CommandLine, redis_url: str) -> Iterator[Ledger]:
    """With one run, "run", that goes on."""
    with closing(Ledger.from_url(redis_url)) as ledger:
        ledger.found()
        create_run(ledger, "run", run_facts())
        ledger.add_vms("run", {"vm": VmFacts("web").write()})
        ledger.set_host("lab", "h1", 1)
        ledger.start_vm("run", "vm", [disk_work("disk", 1)])
        yield ledger


def test_other_results_are_listed(site: CommandLine) -> None:
    with open_repository(load_settings(site.config)) as repository:
        repository.close_run("20261119T010000Z-000001", run_result(run="20261119T010000Z-000001").write())
        repository.close_run("20261120T010000Z-000002", b'{"version":2}')
        repository.close_run("20261121T010000Z-000003", run_result(run="20261121T010000Z-000003").write())
        repository.close_run("20261122T010000Z-000004", b"{}")
    [path] = (site.folder / "store" / "runs").glob("*4/result")
    path.chmod(0o600)
    path.write_bytes(b"damaged")
    done = site("runs", "--json")
    assert (done.code, [run["run"][-1] for run in done.json["runs"]]) == (1, ["1", "3"])
    assert [row["object"] for row in done.json["damaged"]] == [None, "runs/20261122T010000Z-000004/result"]
    version, damaged = [line for line in done.err.splitlines() if "go on" not in line]
    assert version == (
        f"cbtfleet: a run is not listed: the result of run 20261120T010000Z-000002: {ANOTHER_VERSION}"
    )
    assert damaged.startswith("cbtfleet: a run is not listed: object runs/20261122T010000Z-000004/result is")
    assert site("status", "000002").said == f"the result of run 20261120T010000Z-000002: {ANOTHER_VERSION}"
    assert site("status", "000001").code == 0


def test_other_runs_that_go_on_are_listed(site: CommandLine, ledger: Ledger) -> None:
    ledger.create_run("broken", b'{"version":2}')
    done = site("runs", "--json")
    assert (done.code, [run["run"] for run in done.json["runs"]]) == (0, ["run"])
    assert done.said == f"a run is not listed: run broken in Redis: {ANOTHER_VERSION}"
    assert site("status", "run").code == 0
    assert "planning" in site("status", "broken").out, "which does not need that record"


def test_a_result_in_redis_that_cannot_be_read_is_one_line(site: CommandLine, ledger: Ledger) -> None:
    ledger.create_run("broken", run_facts().write())
    ledger.end_run("broken", b'{"version":2}')
    done = site("status", "broken")
    assert (done.code, done.said) == (1, f"the result of run broken in Redis: {ANOTHER_VERSION}")
    assert [run["run"] for run in site.json("runs")["runs"]] == ["run"]


def test_a_disk_is_shown_without_what_cannot_be_read(
    site: CommandLine, ledger: Ledger, redis_client: redis.Redis
) -> None:
    ledger.node_alive("node", 1)
    [grant] = ledger.admit()
    redis_client.hset("cbtfleet:facts:run", "disk", b'{"version":2}')
    line = f"disk disk of run run in Redis: {ANOTHER_VERSION}"
    [disk] = site.json("status", "run")["disks"]
    assert (disk["vdi"], disk["state"], disk["batches"], disk["error"]) == ("disk", "streaming", 1, line)
    assert (disk["name"], disk["mode"], disk["changed_bytes"]) == (None, None, None)
    assert "upgrade this one" in site("status", "run").out
    [host] = site.json("slots")["hosts"]
    [slot] = host["slots"]
    assert (slot["number"], slot["disk"], slot["vm"], slot["name"]) == (grant.slot, "disk", None, None)


def test_it_may_be_why_a_run_does_not_move(ledger: Ledger, redis_client: redis.Redis) -> None:
    ledger.node_alive("node", 1)
    redis_client.hset("cbtfleet:run:run", "facts", b'{"version":2}')
    clock = itertools.count(step=10)
    hints = WaitingHints(ledger, lambda: next(clock))
    assert hints(ledger.progress("run")) == f"run run in Redis: {ANOTHER_VERSION}"


def test_a_name_that_is_no_unicode_is_one_line(site: CommandLine, ledger: Ledger) -> None:
    done = site("backup", "--pool", "lab", "--vm", "\udcff")
    assert (done.code, done.said) == (1, "a name or another text is not valid Unicode; correct it")
    assert ledger.runs() == ["run"]
