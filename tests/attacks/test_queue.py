"""Who can write to Redis puts into the queues what is no message of ours."""

from __future__ import annotations

import base64
import json
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import redis

from scheduler import cli
from tests.acceptance.conftest import FleetMaker
from workers.broker import celery_app
from workers.messages import QUEUES, STEP_QUEUE, STEP_TASK, STREAM_QUEUE, Grant, NotAMessage, Step
from workers.queue_entries import checked_entry
from workers.redis_address import RedisAddress

PREFIX = "cbtfleet:queue:"
TASK_ID = "5e1d8b0e-0d53-4c64-b6d4-9f2f3b8a5c11"
ROOT = Path(__file__).parents[2]


class Touch:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (open, (str(self.path), "w"))


def entry(task: str, arguments: Any, *, content: str = "application/json", **headers: Any) -> bytes:
    body = arguments if isinstance(arguments, bytes) else json.dumps([arguments, {}, {}]).encode()
    return json.dumps(
        {
            "body": base64.b64encode(body).decode(),
            "content-type": content,
            "content-encoding": "utf-8" if content == "application/json" else "binary",
            "headers": {"task": task, "id": TASK_ID, **headers},
            "properties": {
                "body_encoding": "base64",
                "delivery_tag": TASK_ID,
                "delivery_info": {"exchange": "", "routing_key": STEP_QUEUE},
            },
        }
    ).encode()


def foreign_entries(queue: str, planted: Path) -> list[bytes]:
    task, _ = QUEUES[queue]
    other = next(name for name, _ in QUEUES.values() if name != task)
    good = json.loads(entry(task, []))
    return [
        b"",
        b"{",
        b"\xff\xfe",
        pickle.dumps(Touch(planted)),
        b"[" * 100_000,
        b"null",
        b"[]",
        b"{}",
        json.dumps({"headers": {}, "properties": {}}).encode(),
        json.dumps({**good, "properties": None}).encode(),
        json.dumps({**good, "body": "%"}).encode(),
        json.dumps({**good, "headers": {"task": [task]}}).encode(),
        entry(task, pickle.dumps(Touch(planted)), content="application/x-python-serialize"),
        entry("celery.backend_cleanup", []),
        entry(other, [{}]),
        entry(task, []),
        entry(task, [{}, {}]),
        entry(task, [{"run": "r"}]),
        entry(task, [{"run": "r\nforged", "name": "plan-run", "subject": ""}]),
        entry(task, [{}], id=7),
        entry(task, [[]], eta="9999-12-31T00:00:00"),
    ]


def test_foreign_entries_are_dropped_and_the_night_goes_on(
    make_fleet: FleetMaker, redis_client: redis.Redis, tmp_path: Path
) -> None:
    planted = tmp_path / "planted"
    fleet = make_fleet("file", encrypted=False)
    fleet.start_all(workers=1)
    fleet.wait_until(
        lambda: all("is ready" in fleet.logs().split(f"--- {name}.log")[-1] for name in ("worker0",))
    )
    pushed = 0
    for queue in QUEUES:
        entries = foreign_entries(queue, planted)
        pushed += len(entries)
        redis_client.lpush(PREFIX + queue, *entries)
    # what kombu would "restore" into the queue: it was read there as trustingly
    redis_client.hset(f"{PREFIX}unacked", TASK_ID, b"{")
    redis_client.zadd(f"{PREFIX}unacked_index", {TASK_ID: 0})

    result = fleet.backup()
    assert result["status"] == "succeeded", fleet.report(result)
    fleet.wait_until(lambda: fleet.logs().count("it is dropped") >= pushed)
    assert {name: process.poll() for name, process in fleet.processes.items()} == {
        "scheduler": None,
        "worker0": None,
    }
    logs = fleet.logs()
    assert "Traceback" not in logs
    assert "forged" not in logs
    assert not planted.exists()
    fleet.stop_all()
    digests = fleet.restored_digests()
    assert {vdi: digest for (_, vdi), digest in digests.items()} == {
        vdi: fleet.simulator.content_sha256(vdi) for vdi in fleet.simulator.disks
    }


def test_a_queue_that_is_no_list_is_dropped(make_fleet: FleetMaker, redis_client: redis.Redis) -> None:
    fleet = make_fleet("file", encrypted=False)
    for queue in QUEUES:
        redis_client.set(PREFIX + queue, "nonsense")
    fleet.start_all(workers=1)
    result = fleet.backup()
    assert result["status"] == "succeeded", fleet.report(result)
    for queue in QUEUES:
        assert f"the queue {queue} is no list in Redis" in fleet.logs()


@pytest.mark.parametrize(("service", "queue"), [("scheduler", STEP_QUEUE), ("worker", STREAM_QUEUE)])
def test_a_consumer_that_cannot_go_on_ends_with_a_code(
    service: str, queue: str, tmp_path: Path, redis_url: str, redis_client: redis.Redis
) -> None:
    (tmp_path / "store").mkdir()
    config = tmp_path / "cbtfleet.toml"
    config.write_text(
        f'[redis]\nurl = "{redis_url}"\n[repository]\nurl = "file://{tmp_path}/store"\n'
        "[metrics]\nscheduler_port = 0\nworker_port = 0\n"
    )
    assert cli.run(["--config", str(config), "init", "--unencrypted"]) == 0
    redis_client.lpush(PREFIX + queue, b"anything")
    done = subprocess.run(
        [sys.executable, "-m", "tests.attacks.broken_consumer", service, str(config)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    last = done.stderr.splitlines()[-1]
    assert last == f"cbtfleet: the {service} takes no more messages and ends: the lines above say why"


def test_what_celery_writes_is_read_and_only_its_ids_go_on(redis_url: str, redis_client: redis.Redis) -> None:
    app = celery_app(RedisAddress(redis_url))
    step = Step("run", "plan-vm", "vm")
    app.send_task(STEP_TASK, args=[step.as_message()], queue=STEP_QUEUE, countdown=9, expires=1)
    written = redis_client.rpop(PREFIX + STEP_QUEUE)
    app.close()
    assert isinstance(written, bytes)
    before, after = json.loads(written), json.loads(checked_entry(written, STEP_QUEUE))
    assert set(after) == set(before)
    assert set(after["properties"]) == set(before["properties"]) - {"expiration"}
    assert before["headers"]["eta"]
    assert before["headers"]["expires"]
    assert (after["headers"]["eta"], after["headers"]["expires"]) == (None, None)
    arguments, keywords, _ = json.loads(base64.b64decode(after["body"]))
    assert (arguments, keywords) == ([step.as_message()], {})


@pytest.mark.parametrize("queue", list(QUEUES))
def test_each_foreign_entry_is_one_line(queue: str, tmp_path: Path) -> None:
    for foreign in foreign_entries(queue, tmp_path / "planted"):
        with pytest.raises(NotAMessage, match=r"^[^\n]{20,300}$"):
            checked_entry(foreign, queue)
    assert not (tmp_path / "planted").exists()
    grant = entry("cbtfleet.stream", [Grant("lab", "h", 0, 1, "r", "d").as_message()])
    assert checked_entry(grant, STREAM_QUEUE)
