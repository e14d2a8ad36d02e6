"""A worker node whose stream processes tell what they know of the repository's keys: one JSON line each.

`python -m tests.telling_node FILE ...` is `python -m workers.node.main ...`.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from celery import current_app, signals

from workers.messages import STREAM_TASK
from workers.node.main import main


def tell(**_: object) -> None:
    """In a stream process, right after the fork."""
    settings = current_app.tasks[STREAM_TASK]._settings
    told = {
        "process": os.getpid(),
        "repository": settings.repository.model_dump(mode="json", exclude_none=True),
        "environment": sorted(os.environ),
    }
    with Path(sys.argv[1]).open("a", encoding="utf-8") as file:
        file.write(json.dumps(told) + "\n")


if __name__ == "__main__":
    signals.worker_process_init.connect(tell)
    sys.exit(main(sys.argv[2:]))
