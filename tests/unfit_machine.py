"""A worker node on a machine with bad memory: after so many good frames, each sealed frame has a bit flipped.

`python -m tests.unfit_machine GOOD_FRAMES ...` is `python -m workers.node.main ...` on such a machine.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable

from workers.node.main import main
from workers.repository import PackWriter

Compare = Callable[[PackWriter, int, int, memoryview, memoryview], None]


def with_bad_memory(compare: Compare, good_frames: int = 0) -> Compare:
    """`PackWriter._compare`, before which a bit of the frame in the pack flips."""
    count = itertools.count()

    def flipped(writer: PackWriter, block: int, kind: int, frame: memoryview, plain: memoryview) -> None:
        if next(count) >= good_frames:
            frame[0] ^= 1
        compare(writer, block, kind, frame, plain)

    return flipped


if __name__ == "__main__":
    PackWriter._compare = with_bad_memory(PackWriter._compare, int(sys.argv[1]))  # type: ignore[method-assign]
    sys.exit(main(sys.argv[2:]))
