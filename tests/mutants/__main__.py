"""`python -m tests.mutants [WORD ...]`: each mutant whose name or file holds one of the words, or all.

Ends with 1 when one of them was not seen by a test that is named beside it, with 2 when the table does not
fit the tree.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from tests.mutants.check import CannotCheck, Check
from tests.mutants.mutant import MUTANTS, table


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.mutants")
    parser.add_argument("words", nargs="*", metavar="WORD")
    parser.add_argument("--jobs", type=int, default=2, help="mutants at a time")
    parser.add_argument("--table", action="store_true", help="print the table for docs/testing.md and end")
    given = parser.parse_args()
    if given.table:
        print(table(), end="")
        return 0
    words = given.words or [""]
    chosen = [each for each in MUTANTS if any(word in f"{each.name} {each.file}" for word in words)]
    if not chosen:
        print("no mutant has such a name or file", file=sys.stderr)
        return 2
    not_seen = 0
    with tempfile.TemporaryDirectory(prefix="m-") as folder:  # short: the tests make sockets below it
        check = Check(Path(folder))
        try:
            check.whole(chosen, given.jobs)
        except CannotCheck as error:
            print(error, file=sys.stderr)
            return 2
        for result in check.each(chosen, given.jobs):
            print(
                f"{'NOT SEEN' if result.missing else 'seen':8} {result.seconds:6.1f} s  {result.mutant.name}"
            )
            if result.missing:
                not_seen += 1
                print(f"by {', '.join(result.missing)}:\n{result.said}")
            sys.stdout.flush()
    print(f"{len(chosen) - not_seen} of {len(chosen)} mutants were seen")
    return 1 if not_seen else 0


if __name__ == "__main__":
    sys.exit(main())
