"""What comes from the queue is a message of ours, or one line."""

from __future__ import annotations

import json
import logging

import pytest

from scheduler.steps import StepTask
from workers.broker import celery_app
from workers.messages import Grant, NotAMessage, Step
from workers.node.tasks import StreamTask
from workers.redis_address import RedisAddress
from workers.settings import Settings

GRANT = Grant("lab", "h1", 0, 1, "run", "disk")
STEP = Step("run", "plan-vm", "vm")
STRANGE = [
    None,
    "text",
    ["lab"],
    {},
    {**GRANT.as_message(), "slot": "0"},
    {**GRANT.as_message(), "slot": True},
    {**GRANT.as_message(), "slot": None},
    {**GRANT.as_message(), "colour": "blue"},
    {**STEP.as_message(), "subject": ["vm"]},
    {"run": "run", "name": "plan-vm"},
    {1: 2},
]


@pytest.mark.parametrize("message", [GRANT, STEP])
def test_a_message_is_read_as_it_was_written(message: Grant | Step) -> None:
    assert type(message).from_message(json.loads(json.dumps(message.as_message()))) == message


@pytest.mark.parametrize("kind", [Grant, Step])
@pytest.mark.parametrize("message", STRANGE)
def test_what_is_no_message_of_ours_is_refused_in_one_line(kind: type[Grant | Step], message: object) -> None:
    with pytest.raises(
        NotAMessage, match=rf"^a message in the queue is no {kind.__name__.lower()} of [^\n]+$"
    ):
        kind.from_message(message)


def test_the_tasks_drop_it_with_that_line(caplog: pytest.LogCaptureFixture) -> None:
    settings = Settings.model_validate({"repository": {"url": "file:///nowhere"}})
    celery_app(RedisAddress("redis://127.0.0.1:1/0")).register_task(StreamTask(settings, "node")).run(
        {"slot": "0"}
    )
    StepTask(None, lambda step, seconds: None).run("text")  # type: ignore[arg-type]
    assert [record.levelno for record in caplog.records] == [logging.WARNING] * 2
    assert [record.exc_info for record in caplog.records] == [None, None]
    assert "which has pool, host, slot, fence, run, disk;" in caplog.messages[0]
    assert "which has run, name, subject;" in caplog.messages[1]
