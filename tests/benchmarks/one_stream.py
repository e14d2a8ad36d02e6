"""One stream as a worker runs it, from an NBD server over TLS to an S3 store, measured from inside.

Run as a process of its own: `python -m tests.benchmarks.one_stream '{...}'`; prints one JSON object. The
ledger is the only part left out: batches come from a counter.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from pathlib import Path
from typing import Any

from workers.extents import Plan
from workers.fleet import Next, Verdict
from workers.nbd import Tls, connect
from workers.repository import KnownHashes, Pack, PackWriter, load_worker_keys
from workers.repository.open import open_store
from workers.settings import RepositorySettings
from workers.stream.transfer import Transfer

DISK = "bench-disk"
RUN = "bench-run"
SNAPSHOT = "bench-snapshot"


class Counter:
    """Batches 0, 1, 2 ... in place of the ledger."""

    def __init__(self, batches: int) -> None:
        self._left = iter(range(batches))
        self.read_bytes = 0
        self.stored_bytes = 0

    def take(self) -> Next:
        batch = next(self._left, None)
        return Next(Verdict.EMPTY if batch is None else Verdict.CONTINUE, batch)

    def commit(self, batch: int, read_bytes: int, pack: Pack) -> Next:
        self.read_bytes += read_bytes
        self.stored_bytes += len(pack.data)
        return self.take()


def cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def _memory(what: str) -> int:
    """Bytes of this process: VmRSS now, VmHWM at its highest. (ru_maxrss would be our parent's.)"""
    lines = Path("/proc/self/status").read_text().splitlines()
    [kib] = [line.split()[1] for line in lines if line.startswith(what + ":")]
    return int(kib) * 1024


def measure(wanted: dict[str, Any]) -> dict[str, float]:
    """`wanted`: port, certificate, folder (of the keys), endpoint, check; compared_with for a re-baseline."""
    local = RepositorySettings.model_validate(
        {"url": f"file://{wanted['folder']}/store", "public_key_file": f"{wanted['folder']}/public.key"}
    )
    keys = load_worker_keys(open_store(local), local)
    remote = RepositorySettings(url="s3://bench", endpoint_url=wanted["endpoint"])
    store = open_store(remote)
    known = None
    if "compared_with" in wanted:
        known = KnownHashes(store, keys, run=RUN, disk=DISK, snapshot=wanted["compared_with"])
    tls = Tls("certificate", Path(wanted["certificate"]).read_text().rstrip("\n"), "localhost")
    with connect("127.0.0.1", wanted["port"], "disk", tls) as connection:
        plan = Plan.full(connection.size)
        source = Counter(plan.batches)

        def new_pack(batch: int) -> PackWriter:
            return PackWriter(
                keys,
                disk=DISK,
                run=RUN,
                batch=batch,
                snapshot=SNAPSHOT,
                virtual_size=connection.size,
                level=1,
                check=wanted["check"],
                known=known.of(batch) if known else b"",
            )

        before = _memory("VmRSS")
        begun, cpu = time.monotonic(), cpu_seconds()
        Transfer(
            connection, plan, source, new_pack, lambda pack: store.put_if_absent(pack.key, pack.data)
        ).run()
        used, seconds = cpu_seconds() - cpu, time.monotonic() - begun
    store.close()
    return {
        "cpu": used,
        "seconds": seconds,
        "read": source.read_bytes,
        "stored": source.stored_bytes,
        "memory": _memory("VmHWM") - before,
    }


if __name__ == "__main__":
    os.environ |= {"AWS_ACCESS_KEY_ID": "bench", "AWS_SECRET_ACCESS_KEY": "bench"}
    os.environ.setdefault("AWS_DEFAULT_REGION", "us-east-1")
    print(json.dumps(measure(json.loads(sys.argv[1]))))
