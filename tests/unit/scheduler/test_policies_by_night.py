"""Which runs the schedulers begin, over downtimes, losses and each other; what follows a run's end."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
import redis

from scheduler.finishing.after_run import after_run
from scheduler.finishing.steps import end_run
from scheduler.notifications import Message
from scheduler.runs.facts import result_in_ledger, result_of
from scheduler.runs.resuming import resume_lost_runs
from scheduler.runs.triggers import newest_slot, slot_run
from scheduler.runs.values import RunResult, RunStatus, VmFacts
from scheduler.steps import do_step
from tests.fleet_clock import disk_work
from tests.run_records import result_row, run_result
from tests.small_servers import web_service
from tests.unit.scheduler.desk import LONG_AGO, NIGHTLY, Desk, make_desk, utc
from tests.until import until
from workers.errors import CbtfleetError
from workers.repository import AccessDenied, Repository, StoreUnavailable

RUN = slot_run("nightly", utc("2026-11-22T01:00"))


@pytest.fixture(autouse=True)
def warnings_only(caplog: pytest.LogCaptureFixture) -> None:
    """Whatever an earlier test has made of the logging."""
    caplog.set_level(logging.WARNING)


@pytest.fixture
def desk(tmp_path: Path, redis_url: str) -> Iterator[Desk]:
    with make_desk(tmp_path, redis_url) as desk:
        yield desk


def test_a_slots_run_has_a_name_that_everybody_knows() -> None:
    assert RUN.startswith("20261122T010000Z-")
    assert slot_run("hourly", utc("2026-11-22T01:00")) != RUN
    names = [RUN, slot_run("nightly", utc("2026-11-20T01:00")), slot_run("hourly", utc("2026-11-23T01:00"))]
    names += ["20261124T010000Z-3fa9c1", "20261124T010000Z-3fa9c1aa", "by hand"]
    now = utc("2026-12-01T00:00")
    assert newest_slot("nightly", names, now) == utc("2026-11-22T01:00")
    assert newest_slot("nightly", names, utc("2026-11-21T12:00")) == utc("2026-11-20T01:00")
    assert newest_slot("weekly", names, now) is None


def test_a_clock_that_once_was_a_year_ahead_stops_no_night(desk: Desk) -> None:
    desk.nights().look(utc("2027-11-22T01:00"))
    [ahead] = desk.runs()
    desk.end(ahead)
    desk.nights().look(utc("2026-11-22T01:00"))
    assert desk.runs() == [ahead, RUN]
    desk.nights().look(utc("2027-11-22T01:00"))
    assert desk.runs() == [ahead, RUN]


def test_a_night_begins_when_it_is_due_and_not_before(desk: Desk) -> None:
    nights = desk.nights(began=utc("2026-11-21T12:00"))
    nights.look(utc("2026-11-22T00:59:59"))
    assert desk.runs() == []
    nights.look(utc("2026-11-22T01:00:03"))
    nights.look(utc("2026-11-22T01:00:08"))
    assert desk.runs() == [RUN]
    facts = desk.facts(RUN)
    assert facts.started == "2026-11-22T01:00:03Z"
    request = facts.request
    assert (request.policy, request.pool, request.include.names) == ("nightly", "lab", ("*",))
    assert request.trigger is not None
    assert (request.trigger.slot, request.trigger.ends) == ("2026-11-22T01:00:00Z", None)


def test_many_schedulers_begin_it_once(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    schedulers = [desk.nights(began=utc("2026-11-21T12:00")) for _ in range(6)]
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda nights: nights.look(utc("2026-11-22T01:00:01")), schedulers))
    assert [nights.failures for nights in schedulers] == [0] * 6
    assert desk.runs() == [RUN]
    assert caplog.messages.count(f"policy nightly: run {RUN} begins") == 1


def test_missed_nights_are_made_up_for_once_and_that_is_said(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    desk.nights().look(utc("2026-11-19T01:00"))
    [first] = desk.runs()
    desk.end(first)
    back = utc("2026-11-22T09:30")
    for _ in range(2):
        desk.nights(began=back).look(back)
    assert desk.runs() == [first, RUN]
    assert caplog.messages == [
        f"policy nightly: run {RUN} of 2026-11-22 01:00 Europe/London begins 8:30:00 late:"
        " no scheduler could begin it in time"
    ]


def test_a_new_policy_makes_up_for_nothing(desk: Desk) -> None:
    noon = utc("2026-11-22T12:00")
    desk.nights(began=noon).look(noon)
    assert desk.runs() == []


@pytest.mark.parametrize("ended", [True, False])
def test_redis_lost_everything_and_the_night_is_not_begun_again(
    desk: Desk, redis_client: redis.Redis, ended: bool
) -> None:
    desk.nights().look(utc("2026-11-22T01:00"))
    if ended:
        desk.end(RUN)
    else:
        desk.open(RUN)
    redis_client.flushall()
    desk.context.ledger.found()
    desk.nights().look(utc("2026-11-22T02:00"))
    assert desk.runs() == []


def test_a_run_that_still_goes_on_is_not_doubled_and_somebody_hears_of_it(
    tmp_path: Path, redis_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    with (
        web_service() as service,
        make_desk(tmp_path, redis_url, notifications={"webhook": {"url": service.url}}) as desk,
    ):
        desk.nights().look(utc("2026-11-21T01:00"))
        [going] = desk.runs()
        desk.nights().look(utc("2026-11-22T01:00"))
        desk.nights().look(utc("2026-11-22T01:05"))
        assert desk.runs() == [going, RUN]
        result = desk.end(RUN)
        assert (result.status, result.error) == (
            "skipped",
            f"run {going} of the same policy was still going",
        )
        assert result_of(desk.context.repository, RUN) == result
        assert caplog.messages == [
            "policy nightly: its run of 2026-11-22 01:00 Europe/London is skipped: "
            f"run {going} of the same policy was still going"
        ]
        [body] = service.bodies
        assert body["subject"] == "cbtfleet: policy nightly on pool lab: skipped"
        desk.end(going)
        desk.nights().look(utc("2026-11-23T01:00"))
        assert len(desk.runs()) == 3
        assert desk.end(desk.runs()[-1]).status == "succeeded"


def test_a_run_that_redis_forgot_still_goes_on(desk: Desk, redis_client: redis.Redis) -> None:
    desk.nights().look(utc("2026-11-21T01:00"))
    [going] = desk.runs()
    desk.open(going)
    redis_client.flushall()
    desk.context.ledger.found()
    desk.nights().look(utc("2026-11-22T01:00"))
    assert desk.end(RUN).status == "skipped"


def test_a_run_that_cannot_be_read_is_known_by_its_name(desk: Desk) -> None:
    """A slot's run has its policy in its name; that of another policy is no reason to skip."""
    for policy in ("hourly", "nightly"):
        going = slot_run(policy, utc("2026-11-21T01:00"))
        desk.context.ledger.create_run(going, b"{}")
    desk.nights().look(utc("2026-11-22T01:00"))
    assert desk.end(RUN).error == f"run {going} of the same policy was still going"
    desk.context.ledger.end_run(going, run_result(run=going).write())
    desk.nights().look(utc("2026-11-23T01:00"))
    assert desk.end(desk.runs()[-1]).status == "succeeded"


def test_an_open_run_that_nobody_can_resume_holds_up_no_other(
    desk: Desk, redis_client: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    desk.nights().look(utc("2026-11-21T01:00"))
    [lost] = desk.runs()
    desk.open(lost)
    desk.context.repository.open_run("20261120T000000Z-000000", b"{}")
    damaged = desk.folder / "store" / "runs" / "20261120T000000Z-111111" / "open"
    damaged.parent.mkdir()
    damaged.write_bytes(b"damaged")
    redis_client.flushall()
    desk.context.ledger.found()
    ledger, repository = desk.context.ledger, desk.context.repository
    assert resume_lost_runs(ledger, repository) == [lost]
    assert caplog.messages[0].startswith(
        "run 20261120T000000Z-000000 cannot be resumed: the record of open run "
    )
    assert caplog.messages[1].startswith("run 20261120T000000Z-111111 cannot be resumed: ")
    desk.end(lost)
    desk.nights().look(utc("2026-11-22T01:00"))
    assert desk.end(RUN).status == "succeeded"


def test_a_window_that_is_over_is_not_made_up_for(tmp_path: Path, redis_url: str) -> None:
    policy = {**NIGHTLY, "window": {"end": "06:00"}}
    with make_desk(tmp_path, redis_url, policies={"nightly": policy}) as desk:
        desk.nights().look(utc("2026-11-22T05:59"))
        trigger = desk.facts(RUN).request.trigger
        assert trigger is not None
        assert trigger.skipped is None
        desk.end(RUN)
        desk.nights().look(utc("2026-11-23T06:00"))
        skipped = desk.end(desk.runs()[-1])
        assert (skipped.status, skipped.error) == (
            "skipped",
            "no scheduler began it before the end of its window, 06:00 Europe/London",
        )


def test_a_run_that_nobody_understands_does_not_keep_another_from_being_stopped(
    tmp_path: Path, redis_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    policy = {**NIGHTLY, "window": {"end": "06:00"}}
    with make_desk(tmp_path, redis_url, policies={"nightly": policy}) as desk:
        ledger = desk.context.ledger
        ledger.create_run("20261122T000000Z-newer", b'{"request": {"pool": "lab", "moon": "full"}}')
        nights = desk.nights()
        nights.look(utc("2026-11-22T01:00"))
        ledger.add_vms(RUN, {"u-web": VmFacts("web").write()})
        ledger.set_host("lab", "host", 4)
        work = replace(disk_work("u-root", 1, vm="u-web", hosts=("host",)), run=RUN)
        ledger.start_vm(RUN, "u-web", [work])
        for moment in ("2026-11-22T05:59:59", "2026-11-22T06:00", "2026-11-22T06:01"):
            nights.look(utc(moment))
        assert nights.failures == 0
        [disk] = ledger.progress(RUN).disks
    assert (disk.state, disk.error) == ("failed", "stopped at the window's end 06:00 Europe/London")
    assert caplog.messages == [
        "a run goes on without the end of its window: run 20261122T000000Z-newer in Redis: unknown member"
        " request.moon; was it written by a newer version of cbtfleet?",
        f"run {RUN}: stopped at the window's end 06:00 Europe/London; disks that were not finished: 1",
    ]


def test_the_store_is_away_and_the_night_begins_when_it_is_back(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    nights = desk.nights()

    def away(self: Repository) -> set[str]:
        raise StoreUnavailable("the store does not answer")

    with monkeypatch.context() as patch:
        patch.setattr(Repository, "run_names", away)
        nights.look(utc("2026-11-22T01:00"))
        nights.look(utc("2026-11-22T01:00") + timedelta(seconds=2))
    assert nights.failures == 2
    assert caplog.messages == ["looking after policy nightly fails: the store does not answer; trying again"]
    nights.look(utc("2026-11-22T01:00") + timedelta(seconds=5))
    assert desk.runs() == [RUN]


def test_one_policy_in_trouble_does_not_hold_up_another(
    tmp_path: Path, redis_url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with make_desk(tmp_path, redis_url, policies={"a": NIGHTLY, "b": NIGHTLY}) as desk:
        nights = desk.nights()
        begin = nights._begin
        monkeypatch.setattr(
            nights, "_begin", lambda name, *rest: {}[0] if name == "a" else begin(name, *rest)
        )
        nights.look(utc("2026-11-22T01:00"))
        assert desk.runs() == [slot_run("b", utc("2026-11-22T01:00"))]
        assert caplog.messages == ["looking after policy a met something unexpected; trying again"]


def test_the_thread_begins_nights_until_it_is_stopped(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    nights = desk.nights(began=LONG_AGO)
    nights.start()
    until(desk.runs)
    nights.stop()
    assert len(desk.runs()) == 1
    assert "policy nightly: its next run is due at 20" in caplog.messages[0]


# What follows a run


def test_a_scheduler_that_died_after_the_result_was_kept_still_tells(tmp_path: Path, redis_url: str) -> None:
    with (
        web_service() as service,
        make_desk(
            tmp_path, redis_url, notifications={"webhook": {"url": service.url, "when": "always"}}
        ) as desk,
        pytest.MonkeyPatch.context() as patch,
    ):
        desk.nights().look(utc("2026-11-22T01:00"))
        patch.setattr("scheduler.finishing.steps.after_run", lambda *_: {}["killed here"])
        with pytest.raises(KeyError):
            desk.end(RUN)
        patch.undo()
        end_run(desk.context, RUN)
    [body] = service.bodies
    result = result_in_ledger(desk.context.ledger, RUN)
    assert result is not None
    assert body["result"] == json.loads(json.dumps(result.members()))


def test_a_result_that_the_store_does_not_take_is_told_too(
    tmp_path: Path, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuses(*_: object) -> None:
        raise AccessDenied("the store refuses us")

    with (
        web_service() as service,
        make_desk(tmp_path, redis_url, notifications={"webhook": {"url": service.url}}) as desk,
    ):
        ledger = desk.context.ledger
        desk.nights().look(utc("2026-11-22T01:00"))
        [plan] = ledger.due_steps()
        ledger.add_vms(RUN, {})
        monkeypatch.setattr(Repository, "close_run", refuses)
        [end] = [step for step in ledger.due_steps() if step != plan]
        do_step(desk.context, end)
    [body] = service.bodies
    assert (body["result"]["status"], body["result"]["error"]) == ("failed", "the store refuses us")


KEEP = {**NIGHTLY, "keep": {"last": 2}}


def four_nights(desk: Desk) -> RunResult:
    for day in (18, 19, 20, 21):
        desk.commit(f"2026-11-{day}T01:00:00")
        desk.commit(f"2026-11-{day}T02:00:00", vm="db")
    desk.commit("2026-11-10T12:00:00", policy=None)
    desk.commit("2026-11-11T12:00:00", policy="hourly")
    return run_result(result_row(vdi="web-root"), run=RUN)


@pytest.mark.parametrize("status", ["succeeded", "partial", "failed", "cancelled"])
def test_only_after_success_and_only_of_the_runs_own_vms_points_are_forgotten(
    tmp_path: Path, redis_url: str, status: RunStatus
) -> None:
    with make_desk(tmp_path, redis_url, policies={"nightly": KEEP}) as desk:
        result = four_nights(desk)
        before = desk.points()
        after_run(desk.context, replace(result, status=status))
        gone = {"2026-11-18T01:00:00", "2026-11-19T01:00:00"} if status == "succeeded" else set()
        assert desk.points() == [time for time in before if time not in gone]


def test_a_policy_without_keep_or_a_run_by_hand_forgets_nothing(tmp_path: Path, redis_url: str) -> None:
    with make_desk(tmp_path, redis_url, policies={"nightly": KEEP, "other": NIGHTLY}) as desk:
        result = four_nights(desk)
        before = desk.points()
        for policy in (None, "other", "gone from the configuration"):
            after_run(desk.context, replace(result, policy=policy))
        assert desk.points() == before


def test_the_hook_after_a_run_and_what_is_told_of_its_failure(
    tmp_path: Path, redis_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    script = f"cat > {tmp_path}/facts.json; echo disk full; exit 1"
    policy = {**KEEP, "hooks": {"after_run": ["/bin/sh", "-c", script]}}
    with (
        web_service() as service,
        make_desk(
            tmp_path,
            redis_url,
            policies={"nightly": policy},
            notifications={"webhook": {"url": service.url}},
        ) as desk,
    ):
        after_run(desk.context, four_nights(desk))
    facts = (tmp_path / "facts.json").read_text()
    assert f'"hook": "after_run", "run": "{RUN}"' in facts
    assert facts.count('"forgotten": ["') == 1
    line = "hook after_run (/bin/sh) ended with code 1: disk full"
    assert caplog.messages[-1] == f"after run {RUN}: {line}"
    [body] = service.bodies
    assert body["problem"]
    assert "succeeded, with remarks" in body["subject"]
    assert f"- {line}" in body["text"]
    assert "Restore points forgotten by the policy's keep: 2." in body["text"]


def test_nothing_that_follows_a_run_can_fail_it(
    tmp_path: Path, redis_url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuses(*_: object) -> None:
        raise CbtfleetError("the store may not delete")

    with make_desk(tmp_path, redis_url, policies={"nightly": KEEP}) as desk:
        result = four_nights(desk)
        monkeypatch.setattr(Repository, "forget", refuses)
        after_run(desk.context, result)
        assert caplog.messages[-1] == (
            f"after run {RUN}: restore points were not forgotten: the store may not delete"
        )
        monkeypatch.setattr(Repository, "forget", lambda *_: {}["a mistake"])
        told: list[Message] = []
        monkeypatch.setattr("scheduler.finishing.after_run.notify", lambda _, message: told.append(message))
        after_run(desk.context, result)
        line = "restore points were not forgotten: unexpected KeyError; the scheduler's log has the details"
        assert line in told[0].text
        monkeypatch.setattr("scheduler.finishing.after_run.notify", lambda *_: {}["a mistake"])
        after_run(desk.context, result)
        assert caplog.messages[-1] == f"after run {RUN}: unexpected"
