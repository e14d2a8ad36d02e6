"""`cbtfleet scheduler` or a worker node in which reading an entry of a queue fails as nobody foresaw."""

from __future__ import annotations

import sys

from scheduler import cli
from workers import queue_entries
from workers.node import main as node


def fail(entry: bytes, queue: str) -> bytes:
    raise ZeroDivisionError


queue_entries.checked_entry = fail
if __name__ == "__main__":
    service, config = sys.argv[1:]
    if service == "scheduler":
        sys.exit(cli.run(["--config", config, "scheduler"]))
    sys.exit(node.main(["--config", config, "--concurrency", "1"]))
