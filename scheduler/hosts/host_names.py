"""The hosts' names and addresses, for people: the ledger knows uuids alone."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from workers.errors import CbtfleetError
from workers.settings import Settings
from workers.xenapi import Session

LOOK_UP_TIMEOUT = 5.0
"""Seconds for one call: names are a courtesy, and whoever looks at slots may do so because a pool hangs."""


@dataclass(frozen=True)
class HostName:
    pool: str
    host: str
    """uuid"""
    name: str
    hostname: str
    address: str

    def is_called(self, wanted: str) -> bool:
        return wanted.lower() in (self.host, self.name.lower(), self.hostname.lower(), self.address.lower())


def host_names(settings: Settings, pools: Iterable[str]) -> tuple[list[HostName], list[str]]:
    """The hosts of those pools that answer, and a line for each pool that does not. Raises nothing."""
    found = []
    silent = []
    for pool in sorted(set(pools) & set(settings.pools)):
        quick = settings.pools[pool].model_copy(
            update={"timeout": min(LOOK_UP_TIMEOUT, settings.pools[pool].timeout)}
        )
        try:
            with Session.login(pool, quick, patience=0) as session:
                records = session.call("host.get_all_records").values()
        except CbtfleetError as error:
            silent.append(f"hosts are shown without names: {error}")
            continue
        for record in records:
            found.append(
                HostName(
                    pool=pool,
                    host=record["uuid"],
                    name=record["name_label"],
                    hostname=record["hostname"],
                    address=record["address"],
                )
            )
    return found, silent
