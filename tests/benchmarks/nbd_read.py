"""Reading over NBD with TLS: this client beside nbdcopy (C), against the same nbdkit, in turns in one run.

    python tests/benchmarks/nbd_read.py [--size-mib 2048] [--rounds 3] [--request-kib 1024] [--tls12]

Counts the client's CPU time alone. A machine's absolute numbers drift, so look at the ratio.
"""

from __future__ import annotations

import argparse
import resource
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.certificates import Identity, make_identity
from workers.nbd import Read, Tls, connect

WINDOW = 8 << 20
GIB = 1 << 30


@dataclass(frozen=True)
class Measured:
    mib_per_second: float
    cpu_seconds_per_gib: float


def wait_for_listener(port: int) -> None:
    while True:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.02)


@contextmanager
def nbdkit(folder: Path, size: int, tls12: bool) -> Iterator[int]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    tls = ["--tls=require", f"--tls-certificates={folder}"]
    if tls12:
        # GnuTLS reads its priorities from a file: this one leaves TLS 1.2 with XenServer's cipher.
        (folder / "gnutls").write_text("[overrides]\ndisabled-version = tls1.3\ndisabled-version = dtls1.2\n")
    arguments = ["nbdkit", "-f", "-i", "127.0.0.1", "-p", str(port), *tls, "pattern", str(size)]
    environment = {"GNUTLS_SYSTEM_PRIORITY_FILE": str(folder / "gnutls"), "PATH": "/usr/bin:/usr/sbin:/bin"}
    with subprocess.Popen(arguments, env=environment, stderr=subprocess.DEVNULL) as process:
        try:
            wait_for_listener(port)
            yield port
        finally:
            process.terminate()


def measure(run: Callable[[], None], who: int, size: int) -> Measured:
    before, started = resource.getrusage(who), time.perf_counter()
    run()
    seconds, after = time.perf_counter() - started, resource.getrusage(who)
    cpu = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    return Measured(size / 2**20 / seconds, cpu * GIB / size)


def tls_version(port: int, host: Identity) -> str:
    with connect("127.0.0.1", port, "", Tls("certificate", host.pem)) as connection:
        return connection.tls_version


def read_with_this_client(port: int, host: Identity, size: int, request: int) -> None:
    buffers = [memoryview(bytearray(request)) for _ in range(WINDOW // request + 2)]
    with connect("127.0.0.1", port, "", Tls("certificate", host.pem)) as connection:
        reads = (Read(at, buffers[at // request % len(buffers)]) for at in range(0, size, request))
        received = sum(len(done.buffer) for done in connection.read(reads, WINDOW))
        assert received == size


def read_with_nbdcopy(port: int, size: int, request: int) -> None:
    options = [
        "--connections=1",
        f"--requests={WINDOW // request}",
        f"--request-size={request}",
        "--no-extents",
    ]
    uri = f"nbds://127.0.0.1:{port}/?tls-verify-peer=false"
    subprocess.run(["nbdcopy", *options, uri, "null:"], check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="NBD over TLS: this client beside nbdcopy.")
    parser.add_argument("--size-mib", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--request-kib", type=int, default=1024)
    parser.add_argument("--tls12", action="store_true", help="TLS 1.2, as XenServer's")
    chosen = parser.parse_args()
    size, request = chosen.size_mib << 20, chosen.request_kib << 10
    host = make_identity(dns=("localhost",))
    ours: list[Measured] = []
    theirs: list[Measured] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        host.write(folder, "server")
        host.write(folder, "ca")
        with nbdkit(folder, size, chosen.tls12) as port:
            version = tls_version(port, host)
            for _ in range(chosen.rounds):
                ours.append(
                    measure(
                        lambda: read_with_this_client(port, host, size, request), resource.RUSAGE_SELF, size
                    )
                )
                theirs.append(
                    measure(lambda: read_with_nbdcopy(port, size, request), resource.RUSAGE_CHILDREN, size)
                )
    print(f"{version}, {chosen.size_mib} MiB in reads of {chosen.request_kib} KiB, median of {chosen.rounds}")
    speeds, costs = [], []
    for label, results in (("this client", ours), ("nbdcopy", theirs)):
        speeds.append(statistics.median(result.mib_per_second for result in results))
        costs.append(statistics.median(result.cpu_seconds_per_gib for result in results))
        print(f"{label:12} {speeds[-1]:7.0f} MiB/s   {costs[-1]:5.2f} CPU-s/GiB")
    print(f"ratio        {speeds[0] / speeds[1]:7.2f}         {costs[0] / costs[1]:5.2f}")


if __name__ == "__main__":
    main()
