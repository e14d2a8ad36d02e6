"""The pool that the seven nights are about: who is on it, what its guests write, what its administrator does.

It keeps the truth to judge by: which blocks each disk's guest has written since the last snapshot.
"""

from __future__ import annotations

import random
import ssl
import xmlrpc.client
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import XenAPI

from tests.acceptance.conftest import Simulator

MIB = 1 << 20
BLOCK = 64 << 10
ARGUMENTS = ("--hosts", "3", "--vms", "0", "--local-srs", "--seed", "7")


def disk(name: str, mib: float, **more: Any) -> dict[str, Any]:
    return {"name": name, "size": int(mib * MIB), **more}


def vm(name: str, host: int, *disks: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"name": name, "host": host, "disks": list(disks), "tags": ["backup"], **more}


MACHINES = (
    vm("web1", 0, disk("web1 root", 4), disk("web1 logs", 2), cd_drive=True),
    vm("web2", 1, disk("web2 root", 4), cd_drive=True),
    vm("web3", 2, disk("web3 root", 4)),
    vm("db1", 0, disk("db1 root", 2), disk("db1 data", 8), disk("db1 wal", 3 + 1 / 2048, sr="local")),
    vm("db2", 1, disk("db2 root", 2), disk("db2 data", 6, sr="local")),
    vm("mail", 2, disk("mail root", 2, fill="text"), disk("mail store", 5 + 1 / 64, fill="random")),
    vm("files", 2, disk("files root", 2), disk("files share", 6)),
    vm("legacy", 0, disk("legacy root", 2), disk("legacy raw", 2, raw=True)),
    vm("cluster", 2, disk("cluster root", 2), disk("cluster quorum", 1, sharable=True)),
    vm("kiosk", 0, disk("kiosk root", 3), disk("kiosk session", 1, on_boot="reset"), running=False),
    vm("build", 2, disk("build root", 2), disk("build cache", 4, fill="zero")),
    vm("router", 0),
    {**vm("scratch", 1, disk("scratch root", 1)), "tags": []},
)
"""Twelve with the tag that the policy chooses, and one that nobody wants a backup of."""

UNTRACKED = {"legacy raw"}
"""Storage cannot track its changes: read in full every night, and nothing of it is kept on the pool."""

SKIPPED = {"cluster quorum": "sharable", "kiosk session": "on_boot"}
"""Disks that cannot be snapshotted, and the word that says why."""

NEVER_BACKED_UP = {*SKIPPED, "scratch root"}


@dataclass
class NightlyPool:
    """Hosts are numbered from 0, disks go by their names, which are unique and move with them."""

    simulator: Simulator
    written: dict[str, set[int]] = field(default_factory=dict)
    """By disk: blocks that its guest has written since `snapshotted` was last called."""
    _random: random.Random = field(default_factory=lambda: random.Random(7))
    _master: int = 0

    @classmethod
    def populate(cls, simulator: Simulator) -> NightlyPool:
        for machine in MACHINES:
            simulator.post("/vms", machine)
        return cls(simulator)

    def machines(self) -> list[dict[str, Any]]:
        return list(self.simulator.get("/pool")["vms"])

    def all_disks(self) -> dict[str, dict[str, Any]]:
        """By name: `vdi`, `vm`, `size`."""
        return {
            each["name"]: {**each, "vm": machine["name"]}
            for machine in self.machines()
            for each in machine["disks"]
        }

    def disks(self) -> dict[str, dict[str, Any]]:
        """Those that a backup should have."""
        return {name: each for name, each in self.all_disks().items() if name not in NEVER_BACKED_UP}

    def host(self, number: int) -> str:
        return str(self.simulator.facts["hosts"][number]["uuid"])

    # Guests

    def write(self, name: str, blocks: int, kind: str = "random") -> None:
        touched = self.simulator.write(
            self.all_disks()[name]["vdi"], self._random.getrandbits(32), blocks, kind
        )
        self.written.setdefault(name, set()).update(touched)

    def grow(self, name: str, size: int) -> None:
        """A disk gets larger, and its guest writes to the end of it."""
        before = self.disks()[name]
        self.simulator.post("/resize", {"vdi": before["vdi"], "size": size})
        last = size // BLOCK - 1
        self.simulator.post("/write", {"vdi": before["vdi"], "offset": last * BLOCK, "data_hex": "c0ffee"})
        self.written.setdefault(name, set()).add(last)

    def a_day(self) -> None:
        """Guests that run write to some of their disks, each its way; others rest."""
        for machine in self.machines():
            for each in machine["disks"] if machine["power_state"] == "Running" else []:
                if self._random.random() < 0.6:
                    kind = self._random.choice(("random", "text", "text", "zero"))
                    self.write(each["name"], self._random.randint(1, 12), kind)

    def snapshotted(self) -> dict[str, set[int]]:
        """The blocks that are due with the snapshots of this night; what is written from now on is not."""
        due, self.written = self.written, {}
        return due

    # Administrator

    @contextmanager
    def administrator(self) -> Iterator[Any]:
        """XenAPI's methods, logged in at the master."""
        facts = self.simulator.facts
        address = facts["hosts"][self._master]["address"]
        port = facts["url"].rpartition(":")[2]
        trust = ssl.create_default_context(cafile=facts["ca_file"])
        transport = xmlrpc.client.SafeTransport(context=trust)
        session = XenAPI.Session(f"https://{address}:{port}", transport=transport)
        password = Path(facts["password_file"]).read_text().strip()
        session.login_with_password(facts["username"], password, "1.0", "administrator")
        try:
            yield session.xenapi
        finally:
            session.xenapi.session.logout()
            transport.close()

    def fate_of_host(self, number: int, state: str) -> None:
        self.simulator.post("/host", {"host": self.host(number), "state": state})

    def start_vms_on(self, number: int) -> set[str]:
        """Starts the VMs that should run on this host and do not; returns their disks that are backed up."""
        meant = {each["name"] for each in MACHINES if each["host"] == number and each.get("running", True)}
        off = {each["name"] for each in self.machines() if each["power_state"] != "Running"} & meant
        with self.administrator() as api:
            for name in off:
                [ref] = api.VM.get_by_name_label(name)
                api.VM.start_on(ref, api.host.get_by_uuid(self.host(number)), False, False)
        return {name for name, each in self.disks().items() if each["vm"] in off}

    def make_master(self, number: int) -> None:
        self.simulator.post("/master", {"host": self.host(number)})
        self._master = number

    def move_to_local_storage(self, name: str, number: int) -> None:
        """A disk to its host's own storage, as people do it: tracking off first, or XenServer refuses. Its
        uuid is another one afterwards."""
        with self.administrator() as api:
            ref = api.VDI.get_by_uuid(self.disks()[name]["vdi"])
            api.VDI.disable_cbt(ref)
            plugged = [pbd["SR"] for pbd in api.PBD.get_all_records().values()
                       if pbd["host"] == api.host.get_by_uuid(self.host(number))]  # fmt: skip
            [local] = [sr for sr in plugged if not api.SR.get_shared(sr)]
            api.VDI.pool_migrate(ref, local, {})
        self.written.pop(name, None)

    # What is seen from outside

    def snapshots_with_data(self) -> set[str]:
        """Live disks, by name, of which there is a snapshot that was not purged."""
        live = {each["vdi"]: name for name, each in self.disks().items()}
        return {
            live[each["snapshot_of"]]
            for each in self.simulator.leftovers()["vdi_snapshots"]
            if each["type"] != "cbt_metadata" and each["snapshot_of"] in live
        }

    def sessions(self) -> set[str]:
        """Uuids of those that belong to cbtfleet."""
        return {each["uuid"] for each in self.simulator.get("/sessions") if each["originator"] == "cbtfleet"}

    def being_read(self) -> set[str]:
        """Disks, by name, that a host serves at this moment."""
        live = {each["vdi"]: name for name, each in self.disks().items()}
        of = {each["uuid"]: each["snapshot_of"] for each in self.simulator.leftovers()["vdi_snapshots"]}
        served = {
            of.get(each["vdi"])
            for each in self.simulator.get("/log")["connections"]
            if each["outcome"] == "open" and each["answered"] is not None
        }
        return {live[vdi] for vdi in served if vdi in live}

    def calls(self, method: str) -> int:
        return int(self.simulator.get("/log")["calls"].get(method, 0))
