"""Every benchmark by its name."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from tests.benchmarks.fleet.calls import bench_admit, bench_commit, bench_stream
from tests.benchmarks.fleet.large_run import bench_large_run, bench_permits
from tests.benchmarks.fleet.machinery import bench_machinery
from tests.benchmarks.fleet.memory import bench_memory
from tests.benchmarks.fleet.night import bench_night
from tests.benchmarks.fleet.sharing import bench_bad_hosts, bench_fairness
from tests.benchmarks.fleet.table import Row

BENCHMARKS: dict[str, Callable[[bool], Iterator[Row]]] = {
    "commit": bench_commit,
    "stream": bench_stream,
    "admit": bench_admit,
    "permits": bench_permits,
    "large-run": bench_large_run,
    "memory": bench_memory,
    "machinery": bench_machinery,
    "night": bench_night,
    "fairness": bench_fairness,
    "bad-hosts": bench_bad_hosts,
}
"""Each takes `quick` and yields rows of the table."""
