"""A simulated pool, the PyPI XenAPI client and a bare NBD client to hold it to the facts."""

from __future__ import annotations

import socket
import ssl
import struct
import xmlrpc.client
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import XenAPI

from infra.simulator import DiskSpec, PoolSpec, SimulatedPool, Timing, VmSpec

FAST = Timing(login_failure_delay=0.05, slot_release_delay=0.1, data_destroy_wait=0.4, in_progress_retry=5)
MIB = 1 << 20


def trust(pool: SimulatedPool) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(pool.ca_file))


@pytest.fixture(scope="module")
def pool() -> Iterator[SimulatedPool]:
    """Two hosts, NFS storage, no VMs: each test brings its own."""
    with SimulatedPool.start(PoolSpec(timing=FAST)) as pool:
        yield pool


@pytest.fixture
def start_pool() -> Iterator[Callable[..., SimulatedPool]]:
    """A pool of one host (unless told otherwise) of the test's own making."""
    pools: list[SimulatedPool] = []

    def start(**spec: Any) -> SimulatedPool:
        pools.append(SimulatedPool.start(PoolSpec(**{"hosts": 1, "timing": FAST, **spec})))
        return pools[-1]

    yield start
    for one in pools:
        one.stop()


class Api:
    """`api.VDI.get_uuid(ref)` calls; `api.ref` is the session's reference."""

    def __init__(self, session: XenAPI.Session) -> None:
        self._session = session

    @property
    def ref(self) -> str:
        return str(self._session.handle)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session.xenapi, name)


@pytest.fixture
def login() -> Iterator[Callable[..., Any]]:
    """`login(pool)` gives the PyPI client, logged in, as an `Api`."""
    opened: list[tuple[Any, xmlrpc.client.SafeTransport]] = []

    def log_in(pool: SimulatedPool, user: str = "root", password: str = "", host: int = 0) -> Any:
        transport = xmlrpc.client.SafeTransport(context=trust(pool))
        url = f"https://{pool.hosts[host].address}:{pool.hosts[host].port}"
        session = XenAPI.Session(url, transport=transport)
        opened.append((session, transport))
        session.login_with_password(user, password or pool.state.spec.password, "1.0", "tests")
        return Api(session)

    yield log_in
    for _, transport in opened:
        transport.close()


@pytest.fixture
def api(pool: SimulatedPool, login: Callable[..., Any]) -> Any:
    return login(pool)


@dataclass(frozen=True)
class Machine:
    ref: str
    disks: list[str]
    uuids: list[str]
    """Of the disks."""


@pytest.fixture
def machine() -> Callable[..., Machine]:
    """`machine(pool, api)`: a new VM with two disks of 4 MiB with CBT, running unless told otherwise."""

    def make(
        pool: SimulatedPool, api: Any, disks: tuple[DiskSpec, ...] | None = None, **spec: Any
    ) -> Machine:
        disks = disks if disks is not None else (DiskSpec(4 * MIB, cbt=True),) * 2
        vm = api.VM.get_by_uuid(pool.add_vm(VmSpec("guest", disks, **spec)))
        vdis = [api.VBD.get_VDI(vbd) for vbd in api.VM.get_VBDs(vm) if api.VBD.get_type(vbd) == "Disk"]
        return Machine(vm, vdis, [api.VDI.get_uuid(vdi) for vdi in vdis])

    return make


@pytest.fixture
def vm(pool: SimulatedPool, api: Any, machine: Callable[..., Machine]) -> Machine:
    return machine(pool, api)


@pytest.fixture
def failure() -> Callable[..., list[str]]:
    """`failure(call, *args)`: the ErrorDescription that the call fails with."""

    def fails(call: Callable[..., Any], *args: Any) -> list[str]:
        with pytest.raises(XenAPI.Failure) as caught:
            call(*args)
        return list(caught.value.details)

    return fails


class NbdClient:
    """NBD by hand, one step at a time; `receive` returns what came before an EOF."""

    def __init__(self, address: str, port: int) -> None:
        self.socket = socket.create_connection((address, port), timeout=10)

    def receive(self, length: int) -> bytes:
        data = b""
        while len(data) < length:
            try:
                piece = self.socket.recv(length - len(data))
            except ConnectionResetError:
                break
            if not piece:
                break
            data += piece
        return data

    def eof(self) -> bool:
        return self.receive(1) == b""

    def option(self, number: int, data: bytes = b"") -> None:
        self.socket.sendall(b"IHAVEOPT" + struct.pack(">II", number, len(data)) + data)

    def option_reply(self) -> tuple[int, int, int, int] | None:
        """(magic, option, type, length), None at EOF."""
        raw = self.receive(20)
        return struct.unpack(">QIII", raw) if len(raw) == 20 else None

    def greet(self, flags: int = 1) -> bytes:
        greeting = self.receive(18)
        self.socket.sendall(struct.pack(">I", flags))
        return greeting

    def start_tls(self, info: dict[str, str]) -> None:
        self.option(5)
        assert self.option_reply() == (0x3E889045565A9, 5, 1, 0)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(cadata=info["cert"])
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        self.socket = context.wrap_socket(self.socket, server_hostname=info["subject"])

    def export(self, info: dict[str, str]) -> bytes:
        """The answer to EXPORT_NAME: 134 bytes, or none."""
        self.option(1, info["exportname"].encode())
        return self.receive(134)

    def open(self, info: dict[str, str]) -> bytes:
        self.greet()
        self.start_tls(info)
        return self.export(info)

    def request(
        self, kind: int, offset: int = 0, length: int = 0, handle: int = 7, magic: int = 0x25609513
    ) -> None:
        self.socket.sendall(struct.pack(">IIQQI", magic, kind, handle, offset, length))

    def reply(self) -> tuple[int, int, int] | None:
        """(magic, error, handle), None at EOF."""
        raw = self.receive(16)
        return struct.unpack(">IIQ", raw) if len(raw) == 16 else None

    def close(self) -> None:
        self.socket.close()


@pytest.fixture
def nbd() -> Iterator[Callable[..., NbdClient]]:
    """`nbd(info)`: a client connected to an entry of get_nbd_info."""
    clients: list[NbdClient] = []

    def connect(info: dict[str, str]) -> NbdClient:
        clients.append(NbdClient(info["address"], int(info["port"])))
        return clients[-1]

    yield connect
    for client in clients:
        client.close()


@pytest.fixture
def nbd_info() -> Callable[..., dict[str, str]]:
    """`nbd_info(api, vdi)`: the entry of the first host's management address."""

    def info(api: Any, vdi: str) -> dict[str, str]:
        return next(entry for entry in api.VDI.get_nbd_info(vdi) if entry["address"] == "127.0.1.1")

    return info
