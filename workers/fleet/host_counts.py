"""HostCounts: how many of our connections a host still has, by the host's own count."""

from __future__ import annotations

from collections.abc import Sequence

from workers.fleet.scripts import Scripts, text
from workers.fleet.values import HostToCount


class HostCounts:
    def __init__(self, scripts: Scripts) -> None:
        self._scripts = scripts

    def hosts_to_count(self) -> list[HostToCount]:
        """The hosts to count now. Each is handed out to one caller, and again after `Timing.count_every`
        while a slot waits for it, or after `Timing.count_unexplained` while only connections that no slot
        explains are looked for. Begin to count after this call, never before."""
        hosts = []
        for place, asked in self._scripts.call("hosts_to_count"):
            pool, host = text(place).rsplit("/", 1)
            hosts.append(HostToCount(pool, host, int(asked)))
        return hosts

    def counted(self, pool: str, host: str, asked: int, plugged: Sequence[str], others: int) -> None:
        """What a count saw in the host's control domain. `plugged` has the snapshot's uuid of each VBD of a
        disk of ours, one entry a VBD; `others` is the number of other people's connections there. An answer
        to an older question than the last one that was answered says nothing and changes nothing."""
        self._scripts.call("counted", pool, host, asked, others, *plugged)

    def uncountable(self, pool: str, host: str, asked: int) -> None:
        """The pool cannot be asked (the method is unknown there, or not permitted): the host's slots become
        free when their rest is over. Not for a pool that merely does not answer: nothing is confirmed then.
        The next `set_host` with `confirm` after Redis forgot, or the next `counted`, takes it back."""
        self._scripts.call("uncountable", pool, host, asked)
