"""What is shown of a run that has ended, also when only the repository remembers it."""

from __future__ import annotations

import json
from contextlib import closing
from dataclasses import replace

import pytest

from tests.command_line import CommandLine
from tests.run_records import RUN, result_row, run_result
from workers.repository import Repository, load_metadata_keys, open_store
from workers.settings import load_settings

FAILED_VM = result_row(
    **dict.fromkeys(("vdi", "name", "mode", "point", "bytes_per_second")),
    vm="db",
    error='VM "db": no snapshot',
)
RESULT = run_result(result_row(), FAILED_VM, status="partial")


@pytest.fixture
def site(cbtfleet: CommandLine, redis_url: str) -> CommandLine:
    cbtfleet.configure(f'[repository]\nurl = "file://{{folder}}/store"\n[redis]\nurl = "{redis_url}"\n')
    assert cbtfleet("init", "--unencrypted").code == 0
    settings = load_settings(cbtfleet.config).repository
    with closing(open_store(settings)) as store:
        Repository.open(store, load_metadata_keys(store, settings)).close_run(RUN, RESULT.write())
    return cbtfleet


def test_a_run_that_redis_has_forgotten_is_shown_from_the_repository(site: CommandLine) -> None:
    assert site.json("status", "5be41f0a") == {
        "run": RUN,
        "state": "ended",
        "cancelled": False,
        "disks": [],
        "result": json.loads(json.dumps(RESULT.members())),
    }
    shown = site("status", RUN).out.splitlines()
    assert shown[0] == f"Run {RUN}: partial."
    assert shown[2].endswith("3 MiB    3 MiB  1 MiB   2.0 s  1.5 MiB/s  0123456789ab")
    assert shown[3].split()[:3] == ["db", "-", "-"]
    assert 'VM "db": no snapshot' in shown[-1]
    assert 'no run "3fa9c1" in the ledger' in site("status", "3fa9c1").said


def test_a_run_that_was_skipped_is_in_the_list_with_its_reason(site: CommandLine) -> None:
    settings = load_settings(site.config).repository
    skipped = replace(RESULT, run=f"{RUN[:-1]}b", status="skipped", error="it was late", disks=())
    with closing(open_store(settings)) as store:
        Repository.open(store, load_metadata_keys(store, settings)).close_run(skipped.run, skipped.write())
    assert [run["status"] for run in site.json("runs")["runs"]] == ["partial", "skipped"]
    assert f"{skipped.run}: it was late" in site("runs").out
