"""Reading over NBD with TLS: this client beside nbdcopy (C) and Python's own SSLSocket, in turns.

    python tests/benchmarks/nbd_read.py [--size-mib 2048] [--rounds 3] [--request-kib 1024] [--tls12]

Counts the client's CPU time alone. A machine's absolute numbers drift, so look at the ratio.
"""

from __future__ import annotations

import argparse
import resource
import socket
import ssl
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
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


def read_with_ssl_socket(port: int, size: int, request: int) -> None:
    """The plain way, without checks, deadlines or matching: `ssl.SSLSocket.recv_into`, record by record."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    raw = socket.create_connection(("127.0.0.1", port))
    raw.recv(18, socket.MSG_WAITALL)
    raw.sendall(struct.pack(">I8sII", 1, b"IHAVEOPT", 5, 0))
    raw.recv(20, socket.MSG_WAITALL)
    with context.wrap_socket(raw) as line:
        line.settimeout(60)

        def fill(view: memoryview) -> None:
            filled = 0
            while filled < len(view):
                filled += line.recv_into(view[filled:])

        line.sendall(struct.pack(">8sII", b"IHAVEOPT", 1, 0))
        fill(memoryview(bytearray(134)))
        header, target = memoryview(bytearray(16)), memoryview(bytearray(request))
        asked = 0
        for at in range(0, size, request):
            while asked < min(size, at + WINDOW):
                line.sendall(struct.pack(">IHHQQI", 0x25609513, 0, 0, asked, asked, request))
                asked += request
            fill(header)
            fill(target)


def read_with_nbdcopy(port: int, size: int, request: int) -> None:
    options = [
        "--connections=1",
        f"--requests={WINDOW // request}",
        f"--request-size={request}",
        "--no-extents",
    ]
    uri = f"nbds://127.0.0.1:{port}/?tls-verify-peer=false"
    subprocess.run(["nbdcopy", *options, uri, "null:"], check=True)


def median(found: list[Measured]) -> Measured:
    return Measured(
        statistics.median(each.mib_per_second for each in found),
        statistics.median(each.cpu_seconds_per_gib for each in found),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="NBD over TLS: this client beside nbdcopy.")
    parser.add_argument("--size-mib", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--request-kib", type=int, default=1024)
    parser.add_argument("--tls12", action="store_true", help="TLS 1.2, as XenServer's")
    chosen = parser.parse_args()
    size, request = chosen.size_mib << 20, chosen.request_kib << 10
    host = make_identity(dns=("localhost",))
    contenders: dict[str, tuple[Callable[[int], None], int]] = {
        "this client": (lambda port: read_with_this_client(port, host, size, request), resource.RUSAGE_SELF),
        "SSLSocket": (lambda port: read_with_ssl_socket(port, size, request), resource.RUSAGE_SELF),
        "nbdcopy": (lambda port: read_with_nbdcopy(port, size, request), resource.RUSAGE_CHILDREN),
    }
    results: dict[str, list[Measured]] = {label: [] for label in contenders}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        host.write(folder, "server")
        host.write(folder, "ca")
        with nbdkit(folder, size, chosen.tls12) as port:
            version = tls_version(port, host)
            for _ in range(chosen.rounds):
                for label, (run, who) in contenders.items():
                    results[label].append(measure(partial(run, port), who, size))
    print(f"{version}, {chosen.size_mib} MiB in reads of {chosen.request_kib} KiB, median of {chosen.rounds}")
    ours = median(results["this client"])
    for label, found in results.items():
        middle = median(found)
        print(
            f"{label:12} {middle.mib_per_second:7.0f} MiB/s  {middle.cpu_seconds_per_gib:5.2f} CPU-s/GiB"
            f"   this client is {ours.mib_per_second / middle.mib_per_second:.2f} x as fast"
            f" for {ours.cpu_seconds_per_gib / middle.cpu_seconds_per_gib:.2f} x the CPU time"
        )


if __name__ == "__main__":
    main()
