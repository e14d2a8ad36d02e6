"""JSON lines say what they are about, in every thread that does the work."""

from __future__ import annotations

import json
import logging
import threading

import pytest

from workers.logs import JsonFormatter, bind, in_context


def line() -> dict[str, object]:
    record = logging.LogRecord("workers.stream.stream", logging.INFO, __file__, 1, "said", None, None)
    return dict(json.loads(JsonFormatter().format(record)))


def test_what_is_bound_is_in_the_line_and_only_within() -> None:
    with bind(run="r", slot=3):
        with bind(batch=7, task=None):
            assert (line()["run"], line()["slot"], line()["batch"]) == ("r", 3, 7)
            assert "task" not in line()
        assert "batch" not in line()
    assert "run" not in line()


@pytest.mark.parametrize("carried", [True, False])
def test_a_thread_carries_what_was_bound_when_it_was_started(carried: bool) -> None:
    lines: list[dict[str, object]] = []

    def work() -> None:
        lines.append(line())

    with bind(run="r"):
        thread = threading.Thread(target=in_context(work) if carried else work)
        thread.start()
    thread.join()
    assert lines[0].get("run") == ("r" if carried else None)
