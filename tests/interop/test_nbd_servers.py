"""The client against the NBD servers that others wrote: nbdkit, qemu-nbd and nbd-server."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.certificates import Identity, make_identity
from tests.conftest import free_port, listens
from tests.until import until
from workers.nbd import (
    Busy,
    Connection,
    Deadlines,
    ExportRefused,
    NbdError,
    Read,
    ReadFailed,
    Tls,
    TlsRefused,
    TlsUntrusted,
    Unreachable,
    connect,
)

pytestmark = pytest.mark.debian

ODD_SIZE = (9 << 20) + 1234 * 512
AUTHORITY = make_identity(common_name="CA of the lab", authority=True)
HOST = make_identity(common_name="xen1.example", dns=("xen1.example",), issuer=AUTHORITY)
OTHER = make_identity(common_name="xen1.example", dns=("xen1.example",), issuer=AUTHORITY)
PLAIN = Tls("none")
DEADLINES = Deadlines(connect=5, handshake=10, read=10, close=5)


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    path = tmp_path / "disk.img"
    path.write_bytes(random.Random(7).randbytes(ODD_SIZE))
    return path


@pytest.fixture
def pki(tmp_path: Path) -> Path:
    """A folder in the layout that GnuTLS servers (nbdkit, qemu) want."""
    folder = tmp_path / "pki"
    folder.mkdir()
    AUTHORITY.write(folder, "ca")
    HOST.write(folder, "server")
    return folder


def need(program: str) -> str:
    path = shutil.which(program)
    if path is None:
        pytest.skip(f"{program} is not installed")
    return path


@contextlib.contextmanager
def running(arguments: list[str], port: int) -> Iterator[int]:
    """Starts a server and waits until it listens on the port."""
    with subprocess.Popen(arguments, stderr=subprocess.DEVNULL) as process:
        try:
            until(lambda: listens(port))
            yield port
        finally:
            process.kill()  # on SIGTERM nbdkit may wait for a connection that is still open


@contextlib.contextmanager
def nbdkit(*arguments: str) -> Iterator[int]:
    port = free_port()
    with running([need("nbdkit"), "-f", "-i", "127.0.0.1", "-p", str(port), *arguments], port):
        yield port


@contextlib.contextmanager
def qemu_nbd(*arguments: str) -> Iterator[int]:
    port = free_port()
    options = ["-b", "127.0.0.1", "-p", str(port), "-t", "-e", "4", "-r", "-f", "raw"]
    with running([need("qemu-nbd"), *options, *arguments], port):
        yield port


@contextlib.contextmanager
def nbd_server(folder: Path, disk: Path) -> Iterator[int]:
    """Without TLS: with it, version 3.24 insists on a client's certificate."""
    port = free_port()
    lines = ["[generic]", "listenaddr = 127.0.0.1", f"port = {port}"]
    lines += ["[disk]", f"exportname = {disk}", "readonly = true"]
    configuration = folder / "nbd-server.conf"
    configuration.write_text("\n".join(lines) + "\n")
    process_id = folder / "nbd-server.pid"
    # Not with -d, which ends after one connection: so it goes into the background and is ended by its id.
    subprocess.run([need("nbd-server"), "-C", str(configuration), "-p", str(process_id)], check=True)
    try:
        until(lambda: listens(port))
        yield port
    finally:
        os.kill(int(process_id.read_text()), signal.SIGTERM)


def dial(port: int, tls: Tls = PLAIN, export: str = "disk") -> Connection:
    return connect("127.0.0.1", port, export, tls, DEADLINES)


def read_all(connection: Connection, piece: int) -> bytes:
    """The whole disk in pieces, asked for in a scattered order."""
    content = memoryview(bytearray(connection.size))
    starts = list(range(0, connection.size, piece))
    random.Random(3).shuffle(starts)
    requests = [Read(start, content[start : start + piece]) for start in starts]
    assert len(list(connection.read(requests))) == len(requests)
    return content.tobytes()


def trust(mode: str, pki: Path, host: Identity = HOST) -> Tls:
    return Tls(mode, host.pem, "xen1.example", pki / "ca-cert.pem")  # type: ignore[arg-type]


@pytest.mark.parametrize("mode", ["certificate", "public-key", "ca"])
def test_nbdkit_with_tls(mode: str, disk: Path, pki: Path) -> None:
    options = ("--tls=require", f"--tls-certificates={pki}", "file", str(disk))
    with nbdkit(*options) as port, dial(port, trust(mode, pki)) as connection:
        assert connection.size == ODD_SIZE
        assert read_all(connection, 100 * 512) == disk.read_bytes()
        assert connection.close() is True


def test_nbdkit_with_tls_is_checked(disk: Path, pki: Path) -> None:
    with nbdkit("--tls=require", f"--tls-certificates={pki}", "file", str(disk)) as port:
        for mode in ("certificate", "public-key"):
            with pytest.raises(TlsUntrusted, match=f"{mode} check"):
                dial(port, trust(mode, pki, OTHER))
        with pytest.raises(TlsUntrusted, match="name check"):
            dial(port, Tls("ca", None, "xen2.example", pki / "ca-cert.pem"))
        with pytest.raises(ExportRefused):
            dial(port, PLAIN)


@pytest.mark.parametrize("mask", ["0", "1", "3"], ids=["newstyle", "fixed newstyle", "with NO_ZEROES"])
def test_nbdkit_plain_with_any_greeting(mask: str, disk: Path) -> None:
    with nbdkit(f"--mask-handshake={mask}", "file", str(disk)) as port, dial(port) as connection:
        assert read_all(connection, 1 << 20) == disk.read_bytes()


def test_nbdkit_that_answers_out_of_order_and_late(disk: Path) -> None:
    options = [
        "--filter=delay",
        "--filter=noparallel",
        "file",
        str(disk),
        "rdelay=1ms",
        "serialize=connections",
    ]
    with nbdkit(*options) as port, dial(port) as connection:
        assert read_all(connection, 512 * 64) == disk.read_bytes()
    with (
        nbdkit("--filter=delay", "-t", "8", "file", str(disk), "rdelay=1ms") as port,
        dial(port) as connection,
    ):
        assert read_all(connection, 512 * 64) == disk.read_bytes()


def test_nbdkit_that_fails_reads(disk: Path) -> None:
    options = ["--filter=error", "file", str(disk), "error-pread=EIO", "error-pread-rate=100%"]
    with nbdkit(*options) as port, dial(port) as connection, pytest.raises(ReadFailed, match="EIO") as caught:
        read_all(connection, 1 << 20)
    assert caught.value.errno_name == "EIO"


def test_nbdkit_that_takes_no_more_connections(disk: Path) -> None:
    with nbdkit("--filter=limit", "file", str(disk), "limit=1") as port, dial(port) as first:
        with pytest.raises((Busy, ExportRefused)):
            dial(port)
        assert read_all(first, 1 << 20) == disk.read_bytes()


def test_nbdkit_that_has_no_tls_is_refused(disk: Path, pki: Path) -> None:
    with nbdkit("--tls=off", "file", str(disk)) as port, pytest.raises(TlsRefused, match="ERR_POLICY"):
        dial(port, trust("certificate", pki))


@pytest.mark.parametrize("mode", ["certificate", "public-key", "ca"])
def test_qemu_nbd_with_tls(mode: str, disk: Path, pki: Path) -> None:
    credentials = f"tls-creds-x509,id=tls0,endpoint=server,dir={pki},verify-peer=off"
    options = ["--object", credentials, "--tls-creds", "tls0", "-x", "disk", str(disk)]
    with qemu_nbd(*options) as port:
        with dial(port, trust(mode, pki)) as connection:
            assert connection.size == ODD_SIZE
            assert read_all(connection, 77 * 512) == disk.read_bytes()
            assert connection.close() is True
        with pytest.raises(ExportRefused):
            dial(port, trust(mode, pki), "another disk")
        with pytest.raises(NbdError):
            dial(port, PLAIN)


def test_qemu_nbd_plain(disk: Path) -> None:
    with qemu_nbd("-x", "disk", str(disk)) as port:
        with dial(port) as connection:
            assert read_all(connection, 1 << 20) == disk.read_bytes()
            assert connection.close() is True
        with pytest.raises(ExportRefused):
            dial(port, export="another disk")


def test_nbd_server_plain(disk: Path, tmp_path: Path) -> None:
    with nbd_server(tmp_path, disk) as port:
        with dial(port) as connection:
            assert read_all(connection, 1 << 20) == disk.read_bytes()
            assert connection.close() is True
        with pytest.raises(ExportRefused):
            dial(port, export="another disk")


def test_a_server_that_is_killed(disk: Path) -> None:
    port = free_port()
    arguments = [need("nbdkit"), "-f", "-i", "127.0.0.1", "-p", str(port), "file", str(disk)]
    with subprocess.Popen(arguments) as process:
        until(lambda: listens(port))
        with dial(port) as connection:
            process.kill()
            process.wait()
            with pytest.raises(NbdError) as caught:
                read_all(connection, 1 << 20)
    assert caught.value.advice == "retry-elsewhere"
    with pytest.raises(Unreachable):
        dial(port)
