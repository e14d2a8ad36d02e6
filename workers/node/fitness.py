"""Whether this machine may write backups: one pack is sealed and opened again before the first grant.

A machine that stopped because a stream found it unfit is often started again by something that knows nothing
of it. Where memory or processor fail every time, it ends here, before it has touched a disk.
"""

from __future__ import annotations

import random

import numpy as np

from workers.extents import BATCH_BLOCKS, BLOCK_SIZE
from workers.repository import PackWriter, WorkerKeys

_TEXT = b"It compresses well. "
_UUID = "00000000-0000-0000-0000-000000000000"


def try_sealing(keys: WorkerKeys) -> None:
    """Seals a batch, every other block incompressible, and compares. Raises SealCheckFailed."""
    size = BATCH_BLOCKS * BLOCK_SIZE
    pack = PackWriter(keys, disk=_UUID, run="start", batch=0, snapshot=_UUID, virtual_size=size, check=True)
    noise = random.Random(0)
    text = (_TEXT * BLOCK_SIZE)[:BLOCK_SIZE]
    for block in range(BATCH_BLOCKS):
        plain = noise.randbytes(BLOCK_SIZE) if block % 2 else text
        pack.add(np.array([block]), memoryview(plain))
    pack.finish()
