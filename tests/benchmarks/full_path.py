"""The full path (NBD over TLS -> store) beside the sum of its parts, measured in the same run.

    make bench                              or: python -m tests.benchmarks.full_path --size 1GiB --rounds 3

What is measured, and how to read it: tests/benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import json
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.benchmarks.disk_image import write_image
from tests.benchmarks.parts import nbdcopy_cpu, part_costs
from tests.certificates import make_identity
from tests.conftest import free_port
from workers.repository import create_repository
from workers.repository.open import open_store
from workers.settings import RepositorySettings

GIB = 1 << 30
SUMMED = ("TLS read, nbdcopy", "zero test", "zstd, level 1", "BLAKE3", "AES-256-GCM", "PUT, bare http")


@contextmanager
def nbd_server(folder: Path, image: Path) -> Iterator[int]:
    """nbdkit that insists on TLS and answers in order, as XenServer does; yields its port."""
    port = free_port()
    command = ["nbdkit", "--foreground", "--readonly", "--ipaddr", "127.0.0.1", "--port", str(port)]
    command += ["--threads=1"]
    command += ["--tls=require", f"--tls-certificates={folder}", "file", str(image)]
    with subprocess.Popen(command) as process:
        try:
            _wait_for_port(port, process)
            yield port
        finally:
            process.terminate()


def _wait_for_port(port: int, process: subprocess.Popen[bytes]) -> None:
    for _ in range(200):
        if process.poll() is not None:
            raise SystemExit("nbdkit did not start")
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.05)
    raise SystemExit("nbdkit does not listen")


@contextmanager
def sink_server(*folder: str) -> Iterator[int]:
    command = [sys.executable, "-m", "tests.benchmarks.sink", *folder]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield int(process.stdout.readline())
        finally:
            process.terminate()


def prepare(folder: Path, size: int) -> Path:
    """The image, the server's certificate and a repository's keys, all in `folder`; returns the image."""
    authority = make_identity(common_name="bench authority", authority=True)
    server = make_identity(common_name="localhost", dns=("localhost",), issuer=authority)
    authority.write(folder, "ca")
    server.write(folder, "server")
    (folder / "store").mkdir()
    settings = RepositorySettings.model_validate(
        {"url": f"file://{folder}/store"}
        | {f"{kind}_key_file": f"{folder}/{kind}.key" for kind in ("public", "metadata", "private")}
    )
    create_repository(open_store(settings), settings, encrypted=True, passphrase="bench", scrypt_log_n=10)
    image = folder / "image"
    write_image(image, size)
    return image


def one_stream(folder: Path, port: int, sink: int, *, check: bool, **more: str) -> dict[str, float]:
    wanted = {
        "port": port,
        "certificate": f"{folder}/server-cert.pem",
        "folder": str(folder),
        "endpoint": f"http://127.0.0.1:{sink}",
        "check": check,
        **more,
    }
    command = [sys.executable, "-m", "tests.benchmarks.one_stream", json.dumps(wanted)]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def one_round(folder: Path, image: Path, port: int, sink: int) -> dict[str, Any]:
    """Everything once, one after the other, so that the machine's mood is the same for all."""
    parts = {"TLS read, nbdcopy": nbdcopy_cpu(port, folder)} | part_costs(image, sink)
    return {
        "parts": parts,
        "full": one_stream(folder, port, sink, check=False),
        "checked": one_stream(folder, port, sink, check=True),
    }


def report(rounds: list[dict[str, Any]], size: int) -> dict[str, Any]:
    """Medians over the rounds; ratios are taken within a round first."""

    def middle(values: list[float]) -> float:
        return statistics.median(values)

    gib = size / GIB
    sums = [sum(each["parts"][name] for name in SUMMED) for each in rounds]
    ratios = [each["full"]["cpu"] / total for each, total in zip(rounds, sums, strict=True)]
    checks = [each["checked"]["cpu"] / each["full"]["cpu"] - 1 for each in rounds]
    return {
        "size_gib": gib,
        "stored_share": rounds[0]["full"]["stored"] / size,
        "parts": {
            name: middle([each["parts"][name] / gib for each in rounds]) for name in rounds[0]["parts"]
        },
        "sum": middle([total / gib for total in sums]),
        "full": middle([each["full"]["cpu"] / gib for each in rounds]),
        "ratio": middle(ratios),
        "ratios": ratios,
        "mib_per_second": middle([size / (1 << 20) / each["full"]["seconds"] for each in rounds]),
        "check_cost": middle(checks),
        "check_costs": checks,
        "memory_mib": max(each["full"]["memory"] for each in rounds) / (1 << 20),
    }


def show(found: dict[str, Any]) -> None:
    print(f"disk of {found['size_gib']:g} GiB, {found['stored_share']:.0%} of it stored")
    print("CPU seconds per GiB of disk, medians:")
    for name, cost in found["parts"].items():
        print(f"  {name:<26}{cost:6.2f}{'' if name in SUMMED else '   (not in the sum)'}")
    print(f"  {'sum of the parts':<26}{found['sum']:6.2f}")
    print(f"  {'full path':<26}{found['full']:6.2f}   {found['mib_per_second']:.0f} MiB/s, one stream")
    print(f"ratio full path / sum: {found['ratio']:.2f}   (rounds: {_listed(found['ratios'], '.2f')})")
    print(
        f"opening every sealed frame again: {found['check_cost']:+.1%} CPU"
        f"   (rounds: {_listed(found['check_costs'], '+.1%')})"
    )
    print(f"memory that the stream added at its peak: {found['memory_mib']:.0f} MiB")


def _listed(values: list[float], how: str) -> str:
    return ", ".join(format(value, how) for value in values)


def _bytes(text: str) -> int:
    units = {"MiB": 1 << 20, "GiB": GIB}
    return int(text[:-3]) * units[text[-3:]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=_bytes, default=GIB, help="of the disk: 512MiB, 4GiB; default 1GiB")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    wanted = parser.parse_args()
    missing = [program for program in ("nbdkit", "nbdcopy") if not shutil.which(program)]
    if missing:
        raise SystemExit(f"needs {' and '.join(missing)}: apt-get install nbdkit libnbd-bin")
    with tempfile.TemporaryDirectory(prefix="cbtfleet-bench-") as name:
        folder = Path(name)
        image = prepare(folder, wanted.size)
        with nbd_server(folder, image) as port, sink_server() as sink:
            rounds = [one_round(folder, image, port, sink) for _ in range(wanted.rounds)]
    found = report(rounds, wanted.size)
    if wanted.json:
        print(json.dumps(found))
    else:
        show(found)


if __name__ == "__main__":
    main()
