"""How long the ledger's hot calls take: `python -m tests.benchmarks.fleet_latency [--commits N]`.

Starts a Redis of its own on a Unix socket, with an append-only file as in production, and measures from the
caller's side: encoding, round trip, script. One JSON object on stdout; times in microseconds.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import redis

from tests.conftest import redis_server_binary
from tests.fleet_clock import disk_work
from workers.fleet import Ledger, Limits, Outcome, Verdict


def timed(call: Callable[..., Any], *arguments: Any) -> tuple[float, Any]:
    start = time.perf_counter()
    answer = call(*arguments)
    return (time.perf_counter() - start) * 1e6, answer


def summary(samples: list[float]) -> dict[str, float]:
    ordered = sorted(samples)
    return {
        "calls": len(ordered),
        "median": round(ordered[len(ordered) // 2], 1),
        "p99": round(ordered[len(ordered) * 99 // 100], 1),
    }


def measure(client: redis.Redis, commits: int) -> dict[str, Any]:
    ledger = Ledger(client, limits=Limits(opens_per_host=16))
    ledger.found()
    hosts = tuple(f"host-{i:02}" for i in range(16))
    for host in hosts:
        ledger.set_host("lab", host, 16)
    ledger.node_alive("node", 10_000)
    ledger.create_run("run", {})
    ledger.add_vms("run", {"vm": {}})
    ledger.start_vm("run", "vm", [disk_work(f"disk-{i:03}", 100_000, hosts=hosts) for i in range(200)])

    admits: list[float] = []
    opens: list[float] = []
    grants = []
    for _ in range(100):
        took, (grant,) = timed(ledger.admit, 1)
        admits.append(took)
        took, _claim = timed(ledger.claim, grant, "node/1")
        opens.append(took)
        ledger.opened(grant)
        grants.append(grant)
    took_32, more = timed(ledger.admit, 32)
    grant = grants[0]
    following = ledger.take(grant)
    took_commits: list[float] = []
    for _ in range(commits):
        assert following.verdict in (Verdict.CONTINUE,), following
        took, following = timed(ledger.commit, grant, following.batch, 1 << 25, 1 << 24)
        took_commits.append(took)
    renews = [timed(ledger.renew, grants)[0] for _ in range(200)]
    sweeps = [timed(ledger.sweep)[0] for _ in range(200)]
    for grant in grants:
        ledger.release(grant, Outcome.CLEAN)
    server = client.info("commandstats")["cmdstat_evalsha"]
    round_trips = [timed(client.ping)[0] for _ in range(2000)]
    return {
        "redis": client.info("server")["redis_version"],
        "cores": os.cpu_count(),
        "load_average": round(os.getloadavg()[0], 1),
        "ping": summary(round_trips),
        "commit": summary(took_commits),
        "claim": summary(opens),
        "admit of 1 among 200 disks and 16 hosts": summary(admits),
        f"admit of {len(more)} in one call": {"once": round(took_32, 1)},
        "renew of 100 grants": summary(renews),
        "sweep of 132 slots, none expired": summary(sweeps),
        "server time of a script, mean": server["usec_per_call"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--commits", type=int, default=5000)
    commits = parser.parse_args().commits
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "redis.sock"
        arguments = ["--port", "0", "--unixsocket", str(path), "--dir", folder, "--appendonly", "yes"]
        with subprocess.Popen([redis_server_binary(), *arguments], stdout=subprocess.DEVNULL) as process:
            try:
                client = redis.Redis(unix_socket_path=str(path))
                while not path.exists():
                    time.sleep(0.01)
                print(json.dumps(measure(client, commits), indent=2))
                client.close()
            finally:
                process.terminate()


if __name__ == "__main__":
    main()
