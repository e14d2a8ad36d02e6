"""`python -m infra.simulator`: a pool to try things on, until SIGTERM or Ctrl-C."""

from __future__ import annotations

import argparse
import json
import re
import secrets
import signal
import tempfile
import threading
from pathlib import Path

from infra.simulator.control import serve_control
from infra.simulator.pool import SimulatedPool
from infra.simulator.spec import DiskSpec, PoolSpec, Timing, VmSpec

_UNITS = {"": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}


def size(text: str) -> int:
    """Bytes of "64MiB", "2TiB" or a plain number."""
    match = re.fullmatch(r"(\d+)\s*(|KiB|MiB|GiB|TiB)", text)
    if match is None:
        raise argparse.ArgumentTypeError(f'"{text}" is no size; write e.g. 64MiB')
    return int(match[1]) * _UNITS[match[2]]


def parser() -> argparse.ArgumentParser:
    timing = Timing()
    made = argparse.ArgumentParser("python -m infra.simulator", description=__doc__)
    made.add_argument("--hosts", type=int, default=2)
    made.add_argument("--vms", type=int, default=2)
    made.add_argument("--disks", type=int, default=2, help="of each VM")
    made.add_argument(
        "--disk-size", type=size, default=size("64MiB"), help="64MiB, 2TiB, or any number of bytes"
    )
    made.add_argument("--fill", choices=("mixed", "zero", "text", "random"), default="mixed")
    made.add_argument("--seed", type=int, default=1)
    made.add_argument("--name", default="lab")
    made.add_argument("--port", type=int, default=0, help="XenAPI's, on every host; 0: any")
    made.add_argument("--nbd-port", type=int, default=0)
    made.add_argument("--control-port", type=int, default=0)
    made.add_argument(
        "--folder", type=Path, help="for certificates and the password; default: a temporary one"
    )
    made.add_argument("--insecure-nbd", action="store_true", help="NBD without TLS")
    made.add_argument("--no-purpose", action="store_true", help="no network may carry NBD")
    made.add_argument("--certificates", choices=("self-signed", "ca"), default="self-signed")
    made.add_argument("--sr-type", default="nfs")
    made.add_argument("--local-srs", action="store_true", help="each host has storage of its own too")
    made.add_argument("--single-network", action="store_true", help="no 127.0.2.n addresses")
    made.add_argument("--connection-limit", type=int, default=16, help="NBD connections to a host")
    made.add_argument("--login-failure-delay", type=float, default=timing.login_failure_delay)
    made.add_argument("--plug-delay", type=float, default=timing.plug_delay)
    made.add_argument("--slot-release-delay", type=float, default=timing.slot_release_delay)
    made.add_argument("--operation-delay", type=float, default=timing.operation_delay)
    return made


def main() -> None:
    arguments = parser().parse_args()
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    with tempfile.TemporaryDirectory(prefix="simulated-pool-") as temporary:
        folder = arguments.folder or Path(temporary)
        with SimulatedPool.start(spec_of(arguments), folder) as pool:
            listener, port = serve_control(pool, arguments.control_port)
            print(json.dumps({**pool.describe(), "control": f"http://127.0.0.1:{port}"}), flush=True)
            stop.wait()
            listener.stop()


def spec_of(arguments: argparse.Namespace) -> PoolSpec:
    disk = DiskSpec(arguments.disk_size, fill=arguments.fill)
    vms = tuple(
        VmSpec(f"vm{number + 1}", (disk,) * arguments.disks, ("backup",), host=number % arguments.hosts)
        for number in range(arguments.vms)
    )
    return PoolSpec(
        name=arguments.name,
        hosts=arguments.hosts,
        vms=vms,
        seed=arguments.seed,
        password=secrets.token_urlsafe(18),
        port=arguments.port,
        nbd_port=arguments.nbd_port,
        purpose=None if arguments.no_purpose else "insecure_nbd" if arguments.insecure_nbd else "nbd",
        second_network=not arguments.single_network,
        certificates=arguments.certificates,
        sr_type=arguments.sr_type,
        local_srs=arguments.local_srs,
        connection_limit=arguments.connection_limit,
        timing=Timing(
            login_failure_delay=arguments.login_failure_delay,
            plug_delay=arguments.plug_delay,
            slot_release_delay=arguments.slot_release_delay,
            operation_delay=arguments.operation_delay,
        ),
    )


if __name__ == "__main__":
    main()
