"""Log lines on stderr: for people at a terminal, JSON objects elsewhere.

What a line is about (run, vm, disk, host, slot, fence, batch, task) is bound to the code that runs, not
written into each call: `with bind(run=..., disk=...)`. A thread that goes on with that work is started with
`in_context`. Only ids are bound, never an export name or a session.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar, copy_context
from datetime import UTC, datetime
from functools import partial
from typing import ParamSpec, TypeVar

_CELERY_TASKS = ("celery.worker.strategy", "celery.app.trace")
"""Two lines for every step and stream, which name a message that nobody knows."""

_CHATTY = ("botocore", "boto3", "urllib3", "s3transfer", "amqp", "kombu", *_CELERY_TASKS)

_P = ParamSpec("_P")
_T = TypeVar("_T")

_bound: ContextVar[Mapping[str, str | int]] = ContextVar("bound", default={})  # noqa: B039 - never changed


@contextmanager
def bind(**fields: str | int | None) -> Iterator[None]:
    """Within it every JSON line of this thread carries `fields` too; one that is None is left as it was."""
    known = {name: value for name, value in fields.items() if value is not None}
    token = _bound.set({**_bound.get(), **known})
    try:
        yield
    finally:
        _bound.reset(token)


def in_context(work: Callable[_P, _T]) -> Callable[_P, _T]:
    """`work` for another thread, with what is bound here and now. To be called once."""
    return partial(copy_context().run, work)


class JsonFormatter(logging.Formatter):
    """One object a line. Local variables, which may hold secrets, are never part of a traceback."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            "process": record.process,
            **_bound.get(),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


def start_logging(level: int = logging.INFO) -> None:
    """Sets up this process's logging; libraries speak only from WARNING on."""
    handler = logging.StreamHandler(sys.stderr)
    if sys.stderr.isatty():
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)-7s %(message)s", "%H:%M:%S"))
    else:
        handler.setFormatter(JsonFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    for name in _CHATTY:
        logging.getLogger(name).setLevel(logging.WARNING)
