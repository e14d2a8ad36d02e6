"""`cbtfleet resume`: by a part of the run's name, once, and only what is open."""

from __future__ import annotations

from contextlib import closing

import redis

from scheduler.connections import open_repository
from scheduler.policies.requests import RunRequest
from scheduler.runs.facts import open_run, run_facts
from scheduler.runs.values import OpenRun, RunFacts
from tests.command_line import CommandLine
from workers.fleet import Ledger
from workers.settings import load_settings

RUN = "20261122T010203Z-3fa9c1"
POOL = """
[pools.lab]
url = "https://127.0.0.1:1"
username = "backup"
password = "s3cret-pool"
"""


def test_a_run_goes_on_under_its_own_name(
    cbtfleet: CommandLine, redis_url: str, redis_client: redis.Redis
) -> None:
    cbtfleet.configure(
        '[repository]\nurl = "file://{folder}/store"\n' + POOL + f'[redis]\nurl = "{redis_url}"\n'
    )
    cbtfleet("init", "--unencrypted")
    assert f'no run "{RUN}" is open' in cbtfleet("resume", RUN).said
    opened = OpenRun(RunRequest("lab", ("web",)), "2026-11-22T01:02:03Z", {})
    with open_repository(load_settings(cbtfleet.config)) as repository:
        open_run(repository, RUN, opened)
    assert cbtfleet.json("resume", "3fa9c1") == {"run": RUN, "status": "resumed"}
    assert cbtfleet.json("resume", RUN) == {"run": RUN, "status": "running"}
    with closing(Ledger.from_url(redis_url)) as ledger:
        assert run_facts(ledger, RUN) == RunFacts(opened.request, opened.started)
    redis_client.flushall()
    assert f"Run {RUN} goes on." in cbtfleet("resume", RUN).out
