"""The fleet's benchmarks: `make bench-fleet`, or `python -m tests.benchmarks.fleet [--quick] [NAME ...]`.

Rows are printed as they are measured, and once more as one table at the end.
"""

from __future__ import annotations

import argparse
import sys
import time

from tests.benchmarks.fleet.every import BENCHMARKS
from tests.benchmarks.fleet.machine import description
from tests.benchmarks.fleet.table import Row, as_markdown


def run(names: list[str], *, quick: bool) -> list[Row]:
    rows: list[Row] = []
    for name in names:
        start = time.monotonic()
        print(f"{name} ...", file=sys.stderr, flush=True)
        for row in BENCHMARKS[name](quick):
            rows.append(row)
            print(f"  {row.what}: {row.measured}  {row.note}", file=sys.stderr, flush=True)
        print(f"{name} took {time.monotonic() - start:.0f} s", file=sys.stderr, flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.fleet", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(BENCHMARKS)}; default: all")
    parser.add_argument(
        "--quick", action="store_true", help="tiny sizes: shows that it runs, measures nothing"
    )
    given = parser.parse_args()
    unknown = set(given.names) - set(BENCHMARKS)
    if unknown:
        parser.error(f"no benchmark {', '.join(sorted(unknown))}; there are {', '.join(BENCHMARKS)}")
    before = description()
    rows = run(given.names or list(BENCHMARKS), quick=given.quick)
    print(f"Before: {before}\nAfter: {description()}\n\n{as_markdown(rows)}")


if __name__ == "__main__":
    main()
