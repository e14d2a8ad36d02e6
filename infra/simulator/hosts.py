"""One host's servers: XAPI and xapi-nbd on its own addresses, up or down."""

from __future__ import annotations

import socket
import ssl
from dataclasses import dataclass, field
from pathlib import Path

from infra.simulator.certificates import HostCertificate
from infra.simulator.listener import Listener, bind
from infra.simulator.nbd_server import NbdService
from infra.simulator.schema import NULL
from infra.simulator.state import State
from infra.simulator.web import serve_xapi


@dataclass
class SimulatedHost:
    """XAPI serves a new certificate at once; the NBD service keeps the one of its start."""

    state: State = field(repr=False)
    ref: str
    uuid: str
    name: str
    addresses: list[str]
    """The first is the management address, XAPI's only one."""
    folder: Path
    port: int
    nbd_port: int
    _xapi_context: ssl.SSLContext = field(init=False, repr=False)
    _nbd_context: ssl.SSLContext = field(init=False, repr=False)
    _xapi: list[Listener] = field(default_factory=list, repr=False)
    _nbd: dict[str, tuple[NbdService, Listener]] = field(default_factory=dict, repr=False)

    @property
    def address(self) -> str:
        return self.addresses[0]

    @property
    def up(self) -> bool:
        return bool(self._xapi)

    def use_certificate(self, certificate: HostCertificate) -> None:
        """What XAPI serves and tells from now on."""
        self.state.certificates[self.ref] = certificate
        self._xapi_context = certificate.server_context(self.folder)

    def start(self, xapi: socket.socket | None = None, nbd: list[socket.socket] | None = None) -> None:
        """Listens, on sockets that are already bound or on its own ports again. Raises OSError."""
        if xapi is None:
            xapi = bind([self.address], self.port)[0][0]
        handler = serve_xapi(self.state, self.ref, lambda: self._xapi_context)
        self._xapi = [Listener.listen(xapi, handler, f"{self.name} xapi")]
        self.start_nbd(nbd)

    def start_nbd(self, sockets: list[socket.socket] | None = None) -> None:
        """Starts xapi-nbd, with the certificate of this moment."""
        if sockets is None:
            sockets = bind(self.addresses, self.nbd_port)[0]
        self._nbd_context = self.state.certificates[self.ref].server_context(self.folder)
        for address, one in zip(self.addresses, sockets, strict=True):
            self._listen_nbd(address, one)

    def stop_nbd(self) -> None:
        """Its connections end, and with them what they hold."""
        for service, _ in self._nbd.values():
            service.stop()
        for _, listener in self._nbd.values():
            listener.stop()
        self._nbd = {}

    def close_address(self, address: str) -> None:
        """What the firewall does to an address without an NBD purpose: established connections die too."""
        if address in self._nbd:
            self._nbd.pop(address)[1].stop()

    def open_address(self, address: str) -> None:
        if self.up and address not in self._nbd:
            self._listen_nbd(address, bind([address], self.nbd_port)[0][0])

    def stop(self) -> None:
        """All of it, as when the power fails."""
        self.stop_nbd()
        for listener in self._xapi:
            listener.stop()
        self._xapi = []

    def set_live(self, live: bool) -> None:
        """What the master believes of it."""
        database = self.state.database
        with self.state.lock:
            metrics = database.get("host", self.ref)["metrics"]
            if metrics != NULL:
                database.update("host_metrics", metrics, live=live)

    def _listen_nbd(self, address: str, one: socket.socket) -> None:
        service = NbdService(self.state, self.ref, self.uuid, self._nbd_context)
        self._nbd[address] = service, Listener.listen(one, service.handle, f"{self.name} nbd")
