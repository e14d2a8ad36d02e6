"""One bad object stops one thing: what lists goes on past it, shows it, and ends with 1."""

from __future__ import annotations

from contextlib import closing

import pytest

from tests.command_line import CONFIGURATION, CommandLine
from workers.repository import Point, Repository, load_metadata_keys, open_store, point_id
from workers.settings import load_settings

VM = "99999999-8888-7777-6666-555555555555"
RUN = "20261122T010000Z-0a1b2c"
LATER = "20261123T010000Z-0a1b2c"

CONFIGURATION_WITH_POLICY = f"""
{CONFIGURATION}
[pools.lab]
url = "https://127.0.0.1:1"
username = "root"
password = "x"
[policies.nightly]
pool = "lab"
include = {{ names = ["*"] }}
keep = {{ last = 1 }}
"""


@pytest.fixture
def site(cbtfleet: CommandLine) -> CommandLine:
    cbtfleet.configure(CONFIGURATION_WITH_POLICY)
    assert cbtfleet("init", "--unencrypted").code == 0
    return cbtfleet


@pytest.fixture
def point(site: CommandLine) -> Point:
    settings = load_settings(site.config).repository
    with closing(open_store(settings)) as store:
        made = Point(point_id(RUN, VM), "web", VM, "2026-11-22T01:00:00Z", RUN, "lab", (), "nightly")
        Repository.open(store, load_metadata_keys(store, settings)).commit_point(made)
    return made


def plant(site: CommandLine, key: str) -> None:
    path = site.folder / "store" / key
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"planted" * 100)


PLANTED_POINT = f"points/{VM}/{LATER}-{point_id(LATER, VM)}"


def test_points_are_listed_beside_a_planted_one(site: CommandLine, point: Point) -> None:
    plant(site, PLANTED_POINT)
    done = site("points", "--json")
    assert (done.code, [each["id"] for each in done.json["points"]]) == (1, [point.id])
    assert [each["object"] for each in done.json["damaged"]] == [PLANTED_POINT]
    shown = site("points", "--vm", "web")
    assert (shown.code, point.id in shown.out, PLANTED_POINT in shown.out) == (1, True, True)


def test_a_policys_points_are_decided_about_beside_a_planted_one(site: CommandLine, point: Point) -> None:
    plant(site, PLANTED_POINT)
    plant(site, f"runs/{LATER}/open")
    done = site("forget", "--json")
    assert (done.code, [each["id"] for each in done.json["kept"]]) == (1, [point.id])
    assert {each["object"] for each in done.json["damaged"]} == {PLANTED_POINT, f"runs/{LATER}/open"}


def test_runs_are_listed_beside_a_planted_result(site: CommandLine, point: Point) -> None:
    plant(site, f"runs/{LATER}/result")
    done = site("runs", "--json")
    assert (done.code, done.json["runs"]) == (1, [])
    assert [each["object"] for each in done.json["damaged"]] == [f"runs/{LATER}/result"]


@pytest.mark.parametrize(
    "key", [f"points/{VM}/notes.txt", "points/readme", "runs/readme", "packs/x", "other"]
)
def test_what_has_no_name_of_ours_is_nobodys_business(site: CommandLine, point: Point, key: str) -> None:
    plant(site, key)
    for command in (("points",), ("forget", "--dry-run"), ("runs",)):
        done = site(*command, "--json")
        assert (done.code, "damaged" in done.json) == (0, False), command
