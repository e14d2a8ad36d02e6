"""Log lines on stderr: for people at a terminal, JSON objects elsewhere."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime

_CHATTY = ("botocore", "boto3", "urllib3", "s3transfer", "amqp", "kombu")


class JsonFormatter(logging.Formatter):
    """One object a line. Local variables, which may hold secrets, are never part of a traceback."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            "process": record.process,
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
