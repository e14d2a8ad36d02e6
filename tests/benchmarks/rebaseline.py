"""A re-baseline of a disk of which nothing changed, beside a full backup of it, measured in the same run.

    python -m tests.benchmarks.rebaseline --size 1GiB --rounds 3

The full is that of `full_path`. The re-baseline is the same stream, which fetches known hashes from the sink.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from tests.benchmarks.full_path import GIB, _bytes, nbd_server, one_stream, prepare, sink_server
from tests.benchmarks.one_stream import DISK, RUN
from workers.extents import BLOCK_SIZE, Plan
from workers.repository import DiskPoint, PackWriter, Repository, load_private_keys
from workers.repository.open import open_store
from workers.settings import RepositorySettings

BEFORE = "bench-before"
SNAPSHOT = "bench-snapshot"


def keep_point(folder: Path, image: Path) -> dict[str, float]:
    """A full backup of the image in `folder`'s store, and the known hashes for a run that compares with it.

    Returns the control plane's CPU seconds for these.
    """
    files = {f"{kind}_key_file": f"{folder}/{kind}.key" for kind in ("public", "metadata", "private")}
    settings = RepositorySettings.model_validate({"url": f"file://{folder}/store"} | files)
    store = open_store(settings)
    keys = load_private_keys(store, settings, lambda: "bench")
    repository = Repository.open(store, keys)
    size = image.stat().st_size
    plan = Plan.full(size)
    content = np.memmap(image, np.uint8, "r")
    for batch in plan.batch_numbers():
        blocks = plan.batch(batch)
        place = {"disk": DISK, "run": BEFORE, "snapshot": SNAPSHOT}
        writer = PackWriter(keys.metadata.worker, **place, batch=batch, virtual_size=size)
        writer.add(blocks, content[int(blocks[0]) * BLOCK_SIZE : (int(blocks[-1]) + 1) * BLOCK_SIZE].data)
        pack = writer.finish()
        store.put_if_absent(pack.key, pack.data)
    segments = repository.write_segments(BEFORE, DISK, SNAPSHOT, plan, None)
    point = DiskPoint(DISK, "", "0", size, SNAPSHOT, "", "full", None, size, size, 0, segments)
    begun = time.process_time()
    known = repository.keep_known_hashes(RUN, plan, point)
    used = time.process_time() - begun
    store.close()
    return {"known_blocks": known, "keep_cpu": used}


def report(rounds: list[dict[str, Any]], kept: dict[str, float], size: int) -> dict[str, Any]:
    """Medians over the rounds; ratios are taken within a round first."""
    gib = size / GIB
    ratios = [each["compared"]["cpu"] / each["full"]["cpu"] for each in rounds]
    return {
        "size_gib": gib,
        "full": statistics.median(each["full"]["cpu"] / gib for each in rounds),
        "compared": statistics.median(each["compared"]["cpu"] / gib for each in rounds),
        "ratio": statistics.median(ratios),
        "ratios": ratios,
        "full_stored": rounds[0]["full"]["stored"],
        "compared_stored": rounds[0]["compared"]["stored"],
        "full_mib_per_second": statistics.median(size / 2**20 / each["full"]["seconds"] for each in rounds),
        "compared_mib_per_second": statistics.median(
            size / 2**20 / each["compared"]["seconds"] for each in rounds
        ),
        "memory_mib": max(each["compared"]["memory"] for each in rounds) / 2**20,
        "keep_cpu_per_gib": kept["keep_cpu"] / gib,
    }


def show(found: dict[str, Any]) -> None:
    print(f"disk of {found['size_gib']:g} GiB, nothing changed; CPU seconds per GiB of it, medians:")
    for name, what in (("full", "full backup"), ("compared", "re-baseline")):
        stored, speed = found[f"{name}_stored"], found[f"{name}_mib_per_second"]
        print(f"  {what:<14}{found[name]:6.2f}   {stored:>12,} bytes stored, {speed:.0f} MiB/s")
    rounds = ", ".join(format(ratio, ".2f") for ratio in found["ratios"])
    print(f"ratio: {found['ratio']:.2f}   (rounds: {rounds})")
    print(f"memory that the re-baseline's stream added at its peak: {found['memory_mib']:.0f} MiB")
    print(f"the scheduler's part, writing the known hashes: {found['keep_cpu_per_gib']:.3f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=_bytes, default=GIB, help="of the disk: 512MiB, 4GiB; default 1GiB")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    wanted = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="cbtfleet-bench-") as name:
        folder = Path(name)
        image = prepare(folder, wanted.size)
        kept = keep_point(folder, image)
        with nbd_server(folder, image) as port, sink_server(f"{folder}/store") as sink:
            rounds = [
                {
                    "full": one_stream(folder, port, sink, check=False),
                    "compared": one_stream(folder, port, sink, check=False, compared_with=SNAPSHOT),
                }
                for _ in range(wanted.rounds)
            ]
    found = report(rounds, kept, wanted.size)
    if wanted.json:
        print(json.dumps(found))
    else:
        show(found)


if __name__ == "__main__":
    main()
