"""The worker's side of a grant: claim it, take and commit batches, renew the lease, release the slot."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from workers.fleet.keys import plain
from workers.fleet.scripts import Scripts, call_number, request_id, short, text
from workers.fleet.values import DiskWork, Next, Outcome, Verdict, read_disk_facts
from workers.messages import Grant


class Streams:
    def __init__(self, scripts: Scripts) -> None:
        self._scripts = scripts

    def claim(self, grant: Grant, owner: str) -> DiskWork | None:
        """GRANTED -> OPENING, for one caller once: the disk, without its plan (`Ledger.plan` has that) and
        what is done of it.

        `owner` is `<node>` or `<node>/<anything>`. None: the grant is late, was claimed before, or has
        nothing to do any more; just drop it. Raises RecordUnreadable: then it is claimed, to be released.
        """
        fields = self._scripts.call("claim", *_parts(grant), _owner(owner), request_id())
        if fields is None:
            return None
        vm, snapshot, virtual_size, batches, hosts, weight, facts, attempts, give_up_after = fields
        return DiskWork(
            run=grant.run,
            vm=text(vm),
            disk=grant.disk,
            pool=grant.pool,
            snapshot=text(snapshot),
            virtual_size=int(virtual_size),
            batches=int(batches),
            hosts=tuple(json.loads(hosts)),
            weight=float(weight),
            facts=read_disk_facts(facts, grant.run, grant.disk),
            attempts=attempts,
            give_up_after=give_up_after / 1000,
        )

    def opened(self, grant: Grant, owner: str = "") -> bool:
        """OPENING -> HELD: the connection is open. False: the slot is no longer yours, cut it."""
        return bool(self._scripts.call("opened", *_parts(grant), owner))

    def take(self, grant: Grant, owner: str = "", number: int | None = None) -> Next:
        """Reserves the disk's next batch and renews. A stream holds `Limits.reserve` batches at most.

        `number`, a `call_number()`: for who calls again after LedgerUnreachable. Called with the same number
        it reserves nothing more. A stream takes in one thread.
        """
        named = call_number() if number is None else number
        return _next(self._scripts.call("take", *_parts(grant), owner, named))

    def commit(
        self,
        grant: Grant,
        batch: int,
        read_bytes: int,
        stored_bytes: int,
        owner: str = "",
        pack: bytes = b"",
    ) -> Next:
        """Counts the batch, whose pack is in the bucket, unless it was counted; reserves the next and renews.

        `pack` is the hash in the pack's name: of several packs of a batch the one counts that was committed
        (`committed_packs`). With FENCE nothing was counted. Calling it again after LedgerUnreachable is fine.
        """
        arguments = (*_parts(grant), owner, batch, read_bytes, stored_bytes, pack)
        return _next(self._scripts.call("commit", *arguments))

    def renew(self, grants: Sequence[Grant], owner: str = "") -> list[bool]:
        """Renews the leases of all of a node's streams in one call; False: cut that connection at once.

        During a barrier this also re-asserts slots that Redis forgot; `owner` is then their new owner.
        """
        if not grants:
            return []
        arguments = [part for grant in grants for part in _parts(grant)]
        return [bool(held) for held in self._scripts.call("renew", owner, *arguments)]

    def verdicts(self, grants: Sequence[Grant], owner: str = "") -> list[Verdict]:
        """FENCE, CANCEL, EMPTY or DRAIN where `take` would say so, else CONTINUE. Reserves and renews
        nothing: it is for a stream that waits on a slow host to learn of a cancel."""
        if not grants:
            return []
        arguments = [part for grant in grants for part in _parts(grant)]
        return [Verdict(text(verdict)) for verdict in self._scripts.call("verdicts", owner, *arguments)]

    def release(self, grant: Grant, outcome: Outcome, error: str | None = None, owner: str = "") -> None:
        """Ends the stream, after its connection ended: unfinished batches are returned, the slot rests in
        QUARANTINE. `error` is one line without secrets; it is kept with the disk."""
        message = short(error or outcome.lower())
        self._scripts.call("release", *_parts(grant), owner, outcome.value, message)


def _parts(grant: Grant) -> tuple[str, str, int, int, str, str]:
    return grant.pool, grant.host, grant.slot, grant.fence, grant.run, grant.disk


def _owner(owner: str) -> str:
    plain("node", owner.partition("/")[0])
    return owner


def _next(answer: list[Any]) -> Next:
    verdict, batch = answer
    return Next(Verdict(text(verdict)), None if batch < 0 else batch)
