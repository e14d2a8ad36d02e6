"""A whole simulated pool: start it, use it over the wire, play guest and fate through its methods, stop it.

with SimulatedPool.start(plain_pool()) as pool:
    ...  # log in at pool.url
    pool.write_random(vdi, blocks=10, seed=1)
"""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

from infra.simulator import guests, inspection, world
from infra.simulator.calls.session import collect_sessions
from infra.simulator.certificates import Authority, HostCertificate
from infra.simulator.failures import Stopping
from infra.simulator.faults import Fault
from infra.simulator.firewall import keep_firewall
from infra.simulator.guests import Unknown
from infra.simulator.hosts import SimulatedHost
from infra.simulator.listener import bind
from infra.simulator.spec import PoolSpec, VmSpec
from infra.simulator.state import State
from infra.simulator.tasks import collect_tasks

HostState = Literal["up", "down", "unreachable", "booting"]


@dataclass
class SimulatedPool:
    """Built by `start`. VDIs, VMs and hosts are named by uuid; Unknown: no such one."""

    state: State = field(repr=False)
    folder: Path
    hosts: list[SimulatedHost] = field(repr=False)
    authority: Authority | None = field(repr=False)
    _own_folder: bool

    @classmethod
    def start(cls, spec: PoolSpec | None = None, folder: Path | None = None) -> SimulatedPool:
        """Returns when all listens. Without a folder a temporary one is made, and removed by `stop`."""
        spec = spec or PoolSpec()
        state = world.build(spec)
        addresses = [world.addresses(spec, number) for number in range(spec.hosts)]
        xapi, port = bind([each.management for each in addresses], spec.port)
        try:
            nbd, nbd_port = bind([one for each in addresses for one in each.listening], spec.nbd_port)
        except OSError:
            for socket in xapi:
                socket.close()
            raise
        state.xapi_port, state.nbd_port = port, nbd_port
        own = folder is None
        folder = Path(tempfile.mkdtemp(prefix="simulated-pool-")) if folder is None else folder
        folder.mkdir(parents=True, exist_ok=True)
        pool = cls(state, folder, [], Authority.create(spec.name) if spec.certificates == "ca" else None, own)
        for ref, each in zip(state.hosts, addresses, strict=True):
            record = state.database.get("host", ref)
            host = SimulatedHost(
                state, ref, record["uuid"], record["name_label"], each.listening, folder, port, nbd_port
            )
            host.use_certificate(pool._certificate(host))
            pool.hosts.append(host)
        pool._write_files()
        for host, socket in zip(pool.hosts, xapi, strict=True):
            host.start(socket, [nbd.pop(0) for _ in host.addresses])
        state.start_thread(pool._keep_house, "housekeeping")
        if spec.firewall == "iptables":
            state.start_thread(partial(keep_firewall, state, pool.hosts), "firewall")
        return pool

    def __enter__(self) -> SimulatedPool:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Closes every socket and ends every thread."""
        self.state.stop()
        for host in self.hosts:
            host.stop()
        if self._own_folder:
            shutil.rmtree(self.folder, ignore_errors=True)

    # Where it is

    @property
    def url(self) -> str:
        return f"https://{self.hosts[0].address}:{self.hosts[0].port}"

    @property
    def password_file(self) -> Path:
        return self.folder / "password"

    @property
    def ca_file(self) -> Path:
        """What to trust: the CA, or all the hosts' self-signed certificates."""
        return self.folder / "ca.pem"

    def host(self, uuid: str) -> SimulatedHost:
        for host in self.hosts:
            if uuid == host.uuid:
                return host
        raise Unknown(f"no host {uuid}")

    def vms(self) -> list[dict[str, Any]]:
        return inspection.machines(self.state)

    def describe(self) -> dict[str, Any]:
        """What the command line prints when the pool is ready."""
        return {
            "url": self.url,
            "username": self.state.spec.username,
            "password_file": str(self.password_file),
            "ca_file": str(self.ca_file),
            "certificate_sha256": self.state.certificates[self.hosts[0].ref].sha256,
            "nbd_port": self.state.nbd_port,
            "hosts": [{"uuid": host.uuid, "name": host.name, "address": host.address} for host in self.hosts],
            "vms": self.vms(),
        }

    # Guests

    def write(self, vdi: str, offset: int, data: bytes) -> list[int]:
        return guests.write(self.state, vdi, offset, data)

    def write_random(
        self, vdi: str, *, blocks: int, seed: int, kind: Literal["random", "text", "zero"] = "random"
    ) -> list[int]:
        return guests.write_random(self.state, vdi, blocks, seed, kind)

    def resize(self, vdi: str, size: int) -> None:
        guests.resize(self.state, vdi, size)

    def content(self, vdi: str) -> bytes:
        """All its bytes; of a snapshot also after its data or itself are gone."""
        return b"".join(guests.content(self.state, vdi).pieces())

    def sha256(self, vdi: str) -> str:
        return guests.content(self.state, vdi).sha256()

    def add_vm(self, spec: VmSpec) -> str:
        """Returns its uuid."""
        with self.state.lock:
            vm = world.add_vm(self.state, spec)
            return str(self.state.database.get("VM", vm)["uuid"])

    # Fate

    def add_fault(self, **rule: Any) -> None:
        """As POST /fault, e.g. `add_fault(nbd="stall", count=1)`. Raises ValueError."""
        self.state.faults.add(Fault.from_json(rule))

    def clear_faults(self, **which: str) -> None:
        """All, or as POST /fault/clear, e.g. `clear_faults(nbd="stall")`. Raises ValueError."""
        if not which.keys() <= {"nbd", "xapi", "sm"} or len(which) > 1:
            raise ValueError('faults are cleared by one of "nbd", "xapi" and "sm", or all of them by {}')
        self.state.faults.clear(*next(iter(which.items()), ()))

    def faults(self) -> list[dict[str, Any]]:
        """The rules still in force."""
        return self.state.faults.as_json()

    def disable_cbt(self, vdi: str) -> None:
        guests.disable_cbt(self.state, vdi)

    def set_host(self, uuid: str, state: HostState) -> None:
        """Down: the power fails. Unreachable: it runs, but the master cannot talk to it. Booting: its xapi
        answers HOST_STILL_BOOTING to everything."""
        if state not in get_args(HostState):
            raise Unknown(f'host state "{state}" is none of {", ".join(get_args(HostState))}')
        host = self.host(uuid)
        with self.state.lock:
            for kept, name in ((self.state.unreachable, "unreachable"), (self.state.booting, "booting")):
                kept.discard(host.ref)
                if state == name:
                    kept.add(host.ref)
        if state == "down" and host.up:
            guests.crash_host(self.state, host.ref)
            host.set_live(False)
            host.stop()
        elif state != "down" and not host.up:
            host.start()
            host.set_live(True)

    def set_master(self, uuid: str) -> None:
        """Another host is the master from now on; sessions stay, as they are in the pool's database."""
        with self.state.lock:
            self.state.database.update("pool", self.state.pool, master=self.host(uuid).ref)

    def end_sessions(self) -> None:
        """All of them, as when XAPI throws them out: beyond its limits, or when a user is removed."""
        with self.state.lock:
            for ref in self.state.database.refs("session"):
                self.state.database.delete("session", ref)

    def set_purpose(self, purpose: str | None, network: str | None = None) -> None:
        """Of all networks, or of the one with this name. None removes it."""
        database = self.state.database
        with self.state.lock:
            for ref in database.refs("network"):
                if network in {None, database.get("network", ref)["name_label"]}:
                    database.update("network", ref, purpose=[purpose] if purpose else [])

    def rotate_certificate(self, uuid: str) -> None:
        """A new one for XAPI and get_nbd_info; xapi-nbd goes on with the old one until `restart_nbd`."""
        host = self.host(uuid)
        host.use_certificate(self._certificate(host))
        self._write_files()

    def restart_nbd(self, uuid: str) -> None:
        """Nothing to do on a host that is down."""
        host = self.host(uuid)
        if host.up:
            host.stop_nbd()
            host.start_nbd()

    # What happened

    def log(self) -> dict[str, Any]:
        return self.state.log.as_json()

    def clear_log(self) -> None:
        self.state.log.clear()

    def wait_until_let_go(self, seconds: float = 60.0) -> None:
        """Returns when no host has an NBD connection any more: what a client has closed, its host lets go of
        later. Then all disks are unplugged (a leaked one is not), all slots free, and the log is complete.
        Raises TimeoutError."""
        if not self.state.log.wait_until_all_slots_are_free(seconds):
            slots = {host.name: self.state.log.slots_in_use(host.uuid) for host in self.hosts}
            raise TimeoutError(f"slots that are still taken after {seconds:g} s: {slots}")

    def leftovers(self) -> dict[str, Any]:
        return inspection.leftovers(self.state)

    def sessions(self) -> list[dict[str, str]]:
        return inspection.sessions(self.state)

    def _certificate(self, host: SimulatedHost) -> HostCertificate:
        return HostCertificate.create(host.name, host.addresses, self.authority)

    def _write_files(self) -> None:
        certificates = [self.state.certificates[host.ref].pem for host in self.hosts]
        self.ca_file.write_text(self.authority.pem if self.authority else "".join(certificates))
        self.password_file.touch(mode=0o600)
        self.password_file.write_text(self.state.spec.password + "\n")

    def _keep_house(self) -> None:
        """What xapi's database garbage collector does every 30 s."""
        with self.state.lock:
            while True:
                try:
                    self.state.pause(self.state.spec.timing.housekeeping)
                except Stopping:
                    return
                collect_sessions(self.state)
                collect_tasks(self.state)
