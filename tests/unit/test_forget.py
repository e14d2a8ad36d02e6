"""`cbtfleet forget`, and what it refuses."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import pytest

from scheduler.policies.requests import RunRequest
from scheduler.runs.facts import open_run
from scheduler.runs.values import OpenRun
from tests.command_line import CommandLine
from tests.run_records import run_result
from workers.repository import DiskPoint, Point, Repository, load_metadata_keys, open_store, point_id
from workers.settings import load_settings

CONFIGURATION = """
[repository]
url = "file://{folder}/store"
[pools.lab]
url = "https://xen1.example"
username = "backup"
password = "x"
[policies.nightly]
pool = "lab"
include = { tags = ["backup"] }
keep = { last = 2 }
[policies.hourly]
pool = "lab"
include = { tags = ["hourly"] }
keep = { daily = 1 }
[policies.keeper]
pool = "lab"
include = { names = ["*"] }
"""


@pytest.fixture
def site(cbtfleet: CommandLine) -> CommandLine:
    cbtfleet.configure(CONFIGURATION)
    assert cbtfleet("init", "--unencrypted").code == 0
    return cbtfleet


@contextmanager
def repository(site: CommandLine) -> Iterator[Repository]:
    settings = load_settings(site.config).repository
    with closing(open_store(settings)) as store:
        yield Repository.open(store, load_metadata_keys(store, settings))


def commit(
    site: CommandLine, time: str, *disks: str, vm: str = "web", policy: str | None = "nightly"
) -> Point:
    rows = tuple(
        DiskPoint(disk, disk, "0", 0, f"s-{disk}", "sr", "full", None, 0, 0, 0, ()) for disk in disks or (vm,)
    )
    time = f"2026-11-{time}:00Z"
    run = f"{time.replace('-', '').replace(':', '')}-0a1b2c"
    made = Point(point_id(run, f"u-{vm}"), vm, f"u-{vm}", time, run, "lab", rows, policy)
    with repository(site) as opened:
        opened.commit_point(made)
    return made


def left(site: CommandLine) -> list[str]:
    return [point["time"][8:16] for point in site.json("points")["points"]]


def ids(rows: list[dict[str, Any]]) -> list[str]:
    return [row["id"] for row in rows]


def test_by_policy_with_the_reasons_and_first_without_doing_it(site: CommandLine) -> None:
    nights = [commit(site, f"{day}T01:00") for day in (18, 19, 20, 21)]
    other = commit(site, "19T05:00", vm="db", policy="hourly")
    commit(site, "20T12:00", policy=None)
    planned = site.json("forget", "--policy", "nightly", "--dry-run")
    assert planned["dry_run"] is True
    assert ids(planned["forgotten"]) == [nights[0].id, nights[1].id]
    assert planned["kept"] == [
        {
            "id": nights[2].id,
            "vm": "web",
            "vm_uuid": "u-web",
            "time": "2026-11-20T01:00:00Z",
            "policy": "nightly",
            "kept_by": ["last"],
        },
        {
            "id": nights[3].id,
            "vm": "web",
            "vm_uuid": "u-web",
            "time": "2026-11-21T01:00:00Z",
            "policy": "nightly",
            "kept_by": ["last", "newest of disk web"],
        },
    ]
    assert len(left(site)) == 6
    assert site.json("forget", "--policy", "nightly") == {**planned, "dry_run": False}
    assert left(site) == ["19T05:00", "20T01:00", "20T12:00", "21T01:00"]
    shown = site("forget").out
    assert f"{other.id}  2026-11-19T05:00:00Z  db   hourly   daily 2026-11-19, newest of disk db" in shown
    assert "0 forgotten, 3 kept." in shown
    assert "pruned" not in shown


def test_named_points_go_whoever_made_them_but_not_a_disks_newest(site: CommandLine) -> None:
    first, by_hand = commit(site, "18T01:00", "root", "old"), commit(site, "19T01:00", "root", policy=None)
    last = commit(site, "20T01:00", "root")
    refused = site("forget", first.id)
    assert refused.code == 1
    assert f'restore point {first.id} is the newest of disk old of VM "web"' in refused.said
    assert site("forget", by_hand.id, last.id).code == 1
    assert len(left(site)) == 3  # all or none
    shown = site("forget", by_hand.id[:8], by_hand.id, "--dry-run")
    assert f"{by_hand.id}  2026-11-19T01:00:00Z  web  -       - would be forgotten" in shown.out
    assert "1 would be forgotten, 0 kept." in shown.out
    assert site("forget", by_hand.id).out.endswith("stays in the store until it is pruned.\n")
    assert ids(site.json("forget", first.id, last.id, "--even-last")["forgotten"]) == [first.id, last.id]
    assert left(site) == []


def test_a_vm_that_is_being_backed_up_keeps_all_of_its_points(site: CommandLine) -> None:
    points = [commit(site, f"{day}T01:00") for day in (18, 19, 20)]
    others = [commit(site, f"{day}T01:00", vm="db") for day in (18, 19, 20)]
    with repository(site) as opened:
        open_run(opened, "running", OpenRun(RunRequest("lab"), "2026-11-21T01:00:00Z", {"u-web": "web"}))
        done = site.json("forget", "--policy", "nightly")
        assert ids(done["forgotten"]) == [others[0].id]
        assert done["kept"][0]["kept_by"] == ["a run is backing this VM up"]
        assert "a run is backing this VM up" in site("forget", points[0].id, "--even-last").said
        opened.close_run("running", run_result(run="running").write())
    assert ids(site.json("forget", "--policy", "nightly")["forgotten"]) == [points[0].id]


def test_of_a_run_whose_record_cannot_be_read_the_vms_that_it_has_planned_keep_their_points(
    site: CommandLine,
) -> None:
    """Of the others it chooses a base only when it plans them."""
    points = [commit(site, f"{day}T01:00") for day in (18, 19, 20)]
    others = [commit(site, f"{day}T01:00", vm="db") for day in (18, 19, 20)]
    with repository(site) as opened:
        opened.open_run("newer", b'{"version":2}')
        opened.keep_run_vm("newer", "u-web", b"its plan")
    done = site("forget", "--policy", "nightly", "--json")
    assert (done.code, ids(done.json["forgotten"])) == (1, [others[0].id])
    assert [row["why"].partition(": ")[0] for row in done.json["damaged"]] == ["the record of open run newer"]
    refused = site("forget", points[0].id, "--even-last")
    assert (refused.code, "a run is backing this VM up" in refused.said) == (1, True)
    assert "the record of open run newer" in site("forget", "--policy", "nightly").out


def test_a_point_that_cannot_be_read_is_neither_counted_nor_forgotten(site: CommandLine) -> None:
    points = [commit(site, f"{day}T01:00") for day in (18, 19, 20)]
    broken = site.folder / "store" / points[2].key
    broken.chmod(0o600)
    broken.write_bytes(b"damaged")
    done = site("forget", "--policy", "nightly", "--json")
    assert (done.code, done.json["forgotten"], ids(done.json["kept"])) == (
        1,
        [],
        [points[0].id, points[1].id],
    )
    assert [row["object"] for row in done.json["damaged"]] == [points[2].key]
    assert broken.exists()


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["0123", "--policy", "nightly"], 2, "give either points or --policy, not both"),
        (["--even-last"], 2, "--even-last is for points that are named"),
        (["--policy", "keeper"], 2, "policies.keeper has no keep, so all of its restore points are kept"),
        (
            ["--policy", "weekly"],
            2,
            'no policy "weekly" in the configuration; known: hourly, keeper, nightly',
        ),
        (["0123"], 1, "there is no restore point '0123'"),
    ],
)
def test_what_is_refused(site: CommandLine, arguments: list[str], code: int, said: str) -> None:
    done = site("forget", *arguments)
    assert (done.code, said in done.said) == (code, True), done


def test_nothing_says_what_to_forget(site: CommandLine) -> None:
    site.configure(CONFIGURATION.replace("keep = ", "weight = 1 #"))
    assert "name points, or give a policy a keep" in site("forget").said


def test_a_store_without_points(site: CommandLine) -> None:
    assert site("forget").out == "No restore point of these policies yet.\n"
