"""A real worker node whose transfers are empty: `python -m tests.benchmarks.fleet.empty_node FOLDER ...`.

Everything of a stream is the worker's own - the Celery task, the claim, the lease's threads, the plan, the
commits, the release - but where it would talk to a pool or a host, or read, seal and store blocks, stand-ins
do nothing. Each process writes to FOLDER when it claimed and when it released a slot, on the monotonic clock,
which all processes of a machine share.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from workers.fleet import Ledger, Verdict
from workers.node import main as node
from workers.repository import Pack
from workers.stream import stream
from workers.xenapi import Session, Sessions

VIRTUAL_SIZE = 100 << 30
HOSTS = [f"host-{number:03}" for number in range(64)]


NO_PACK = Pack("", memoryview(b""), 0, 0, 0, bytes(16))


class _NoConnection:
    size = VIRTUAL_SIZE

    def close(self) -> bool:
        return True

    def abort(self) -> None:
        pass


class _EmptyTransfer:
    """Commits batch after batch without reading one."""

    def __init__(self, _connection: Any, _plan: Any, batches: Any, *_rest: Any, **_options: Any) -> None:
        self._batches = batches
        self._told: Verdict | None = None
        self.waiting_since = None

    def tell(self, verdict: Verdict) -> None:
        self._told = verdict

    def run(self) -> Verdict:
        following = self._batches.take()
        while following.verdict is Verdict.CONTINUE and self._told is None:
            following = self._batches.commit(following.batch, 0, NO_PACK)
        verdict: Verdict = self._told or following.verdict
        return verdict


@contextmanager
def _no_pool(*_: Any, **__: Any) -> Iterator[Any]:
    yield SimpleNamespace(call=lambda *_: "OpaqueRef:none")


_ENDPOINTS = [
    SimpleNamespace(
        host=host, tls=True, certificate_pem="", subject="", address="", port=0, export_name="", network=""
    )
    for host in HOSTS
]

STAND_INS = (
    (Session, "login", _no_pool),
    (Sessions, "borrow", _no_pool),
    (stream, "nbd_endpoints", lambda *_, **__: _ENDPOINTS),
    (stream, "connect", lambda *_, **__: _NoConnection()),
    (stream, "Transfer", _EmptyTransfer),
)
"""All that a stream knows of pools, hosts, blocks and the store."""


def empty_the_transfer() -> None:
    for owner, name, stand_in in STAND_INS:
        if not hasattr(owner, name):
            raise SystemExit(f"{owner} has no {name} any more: this benchmark must follow it")
        setattr(owner, name, stand_in)


def note_claims_and_releases(folder: Path) -> None:
    """Each process's ledger from now on writes lines of `claimed|released <monotonic> <run>/<disk>`."""
    open_ledger = Ledger.open

    def open_noting(settings: Any) -> Ledger:
        ledger = open_ledger(settings)
        claim, release = ledger.claim, ledger.release

        def note(what: str, grant: Any) -> None:
            line = f"{what} {time.monotonic():.6f} {grant.run}/{grant.disk}\n"
            with (folder / f"{os.getpid()}.times").open("a") as file:
                file.write(line)

        def noted_claim(grant: Any, owner: str) -> Any:
            work = claim(grant, owner)
            if work is not None:
                note("claimed", grant)
            return work

        def noted_release(grant: Any, *rest: Any, **options: Any) -> Any:
            answer = release(grant, *rest, **options)
            note("released", grant)
            return answer

        ledger.claim = noted_claim
        ledger.release = noted_release
        return ledger

    Ledger.open = open_noting  # type: ignore[method-assign]


if __name__ == "__main__":
    empty_the_transfer()
    note_claims_and_releases(Path(sys.argv[1]))
    sys.exit(node.main(sys.argv[2:]))
