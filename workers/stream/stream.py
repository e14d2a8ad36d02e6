"""One granted connection, from the claim to the release.

claim -> log in -> get_nbd_info -> connect to the granted host -> opened -> Transfer -> close -> release
                                                                     ^                                |
                          lease renewed every 5 s, or the connection is cut                    log out
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from typing import TypeVar

from workers.errors import CbtfleetError
from workers.extents import Plan
from workers.fleet import DiskWork, Ledger, LedgerUnreachable, Next, Outcome, Verdict, call_number
from workers.logs import bind
from workers.messages import Grant
from workers.nbd import Connection, Deadlines, NbdError, Tls, Unreachable, connect
from workers.records import RecordUnreadable
from workers.repository import (
    KnownHashes,
    ObjectExists,
    Pack,
    PackWriter,
    Store,
    WorkerKeys,
    check_order,
)
from workers.settings import PoolSettings, Settings
from workers.stream.lease import LeaseKeeper
from workers.stream.outcomes import (
    EndUnseen,
    HostGone,
    LeaseLost,
    NeverOpened,
    Withdrawn,
    WrongSize,
    outcome_of,
    stops_the_node,
)
from workers.stream.reports import NoReports, Reports
from workers.stream.transfer import Transfer
from workers.xenapi import Endpoint, NotExportable, Sessions, nbd_endpoints

log = logging.getLogger(__name__)

_ASK_AGAIN = 0.2
"""Seconds between two tries of a call to a Redis that is away: a restart takes one or two."""

_CUT = (Verdict.CANCEL, Verdict.FENCE)
"""With these nothing is finished, and the connection is cut in the middle of its reads."""

T = TypeVar("T")


@dataclass(frozen=True)
class StreamContext:
    """What a worker process needs for every stream: opened once, after the fork."""

    settings: Settings
    ledger: Ledger
    store: Store
    keys: WorkerKeys
    owner: str
    sessions: Sessions
    deadlines: Deadlines = field(default_factory=Deadlines)
    reports: Reports = field(default_factory=NoReports)


class _Batches:
    """The ledger as the transfer sees it: this grant's batches.

    A Redis that is away for a moment is asked again for as long as the slot is safely ours: an open costs the
    host seconds, and what was read is still good.
    """

    def __init__(self, context: StreamContext, grant: Grant, keeper: LeaseKeeper) -> None:
        self._ledger = context.ledger
        self._owner = context.owner
        self._reports = context.reports
        self._grant = grant
        self._keeper = keeper

    def opened(self) -> bool:
        return self._patiently(lambda: self._ledger.opened(self._grant, owner=self._owner))

    def take(self) -> Next:
        number = call_number()  # of the one call, however often it is made
        return self._patiently(lambda: self._ledger.take(self._grant, self._owner, number))

    def commit(self, batch: int, read_bytes: int, pack: Pack) -> Next:
        stored_bytes = len(pack.data)
        answer = self._patiently(
            lambda: self._ledger.commit(
                self._grant, batch, read_bytes, stored_bytes, owner=self._owner, pack=pack.hash
            )
        )
        if answer.verdict is not Verdict.FENCE:
            self._reports.batch(read_bytes, stored_bytes)
        return answer

    def _patiently(self, call: Callable[[], T]) -> T:
        while True:
            try:
                return call()
            except LedgerUnreachable:
                if self._keeper.stopped or not self._keeper.still_ours():
                    raise
            time.sleep(_ASK_AGAIN)


def run_stream(context: StreamContext, grant: Grant) -> None:
    """Works off one grant. A grant that is no longer ours is dropped without a word: messages are hints.

    Raises nothing that retrying could heal: a failed stream is released as such, and the ledger decides
    about another attempt.
    """
    with bind(run=grant.run, disk=grant.disk, host=grant.host, slot=grant.slot, fence=grant.fence):
        sent = time.monotonic()
        context.reports.claiming(grant, context.owner)
        try:
            work = context.ledger.claim(grant, context.owner)
        except RecordUnreadable as error:  # a worker of another version may be able to read it
            context.reports.passed()
            log.warning("%s", error)
            context.ledger.release(grant, Outcome.STORE_AWAY, str(error), context.owner)
            return
        except CbtfleetError:
            context.reports.passed()
            raise
        if work is None:
            context.reports.passed()
            log.info("grant of slot %d on host %s has passed; dropped", grant.slot, grant.host)
            return
        with bind(vm=work.vm):
            _work_off(context, grant, work, sent)


def _work_off(context: StreamContext, grant: Grant, work: DiskWork, sent: float) -> None:
    name = _disk_name(work)
    outcome = Outcome.LOST
    why: str | None = f"{name}: the worker stopped in the middle"
    keeper = LeaseKeeper(context.ledger, grant, context.owner, sent, context.reports)
    batches = _Batches(context, grant, keeper)
    with ExitStack() as at_end:  # logging out of a pool that is away takes long; nobody shall wait for it
        try:
            with keeper:
                verdict = _transfer(context, work, batches, keeper, grant, at_end, sent)
            if verdict not in _CUT:
                outcome, why = Outcome.CLEAN, None
            log.info("%s: stream on host %s ended: %s", name, grant.host, verdict)
        except CbtfleetError as error:
            outcome, why = outcome_of(error, work), f"{name}: {error}"
            log.warning("%s (%s)", why, outcome)
            if stops_the_node(error):  # before the release: what it gives back is for other nodes
                context.reports.unfit(why, error.exit_code)
        finally:
            try:
                _release(context, grant, outcome, why)
            finally:
                context.reports.ended(outcome)


def _release(context: StreamContext, grant: Grant, outcome: Outcome, why: str | None) -> None:
    """Raises LedgerUnreachable when Redis stays away; the lease then runs out."""
    until = time.monotonic() + context.ledger.timing.renew_every
    while True:
        try:
            return context.ledger.release(grant, outcome, why, owner=context.owner)
        except LedgerUnreachable:
            if time.monotonic() >= until:
                raise
        time.sleep(_ASK_AGAIN)


def _transfer(
    context: StreamContext,
    work: DiskWork,
    batches: _Batches,
    keeper: LeaseKeeper,
    grant: Grant,
    at_end: ExitStack,
    sent: float,
) -> Verdict:
    check_order(context.keys, work.order, work.facts.signature)
    plan = Plan.unpack(context.ledger.plan(grant.run, grant.disk), work.virtual_size)
    pool = context.settings.pool(grant.pool)
    session = at_end.enter_context(context.sessions.borrow(grant.pool))
    snapshot = session.call("VDI.get_by_uuid", work.snapshot)
    endpoints = nbd_endpoints(session, snapshot, _disk_name(work))
    ours = [each for each in endpoints if each.host == grant.host]
    if not all(each.tls or work.facts.insecure for each in ours):  # the run's result is made from the plan
        raise NotExportable(
            f"{ours[0].host_name} no longer serves it with TLS, as it did when the run was planned;"
            " nothing was sent: give the network the purpose nbd again, or start a new run"
        )
    if keeper.stopped is not None:
        raise NeverOpened(f"told {keeper.stopped} before the connection was opened")
    try:
        connection = _connect(ours, pool, context.deadlines, keeper)
        try:
            if connection.size != work.virtual_size:
                raise WrongSize(
                    f"the host exports {connection.size} bytes but the plan is for {work.virtual_size};"
                    " the snapshot was changed under the backup"
                )
            if not batches.opened():
                raise LeaseLost("the lease on the connection slot ran out while connecting")
            context.reports.opened(time.monotonic() - sent)
            transfer = Transfer(connection, plan, batches, _pack_maker(context, work), _putter(context.store))
            keeper.transferring(transfer)
            verdict = transfer.run()
            if not connection.close() and verdict not in _CUT:
                raise EndUnseen(f"connection cut, or not closed by the host in time ({verdict})")
            return verdict
        finally:
            connection.abort()
    except (NbdError, LedgerUnreachable, EndUnseen) as error:
        if keeper.lost:
            raise LeaseLost("the lease on the connection slot could not be kept; connection cut") from error
        if keeper.stopped is not None:
            raise Withdrawn(f"told {keeper.stopped}, and the host kept us waiting; connection cut") from error
        raise


def _connect(
    endpoints: list[Endpoint], pool: PoolSettings, deadlines: Deadlines, keeper: LeaseKeeper
) -> Connection:
    """The first address of the granted host that answers: they all lead to the same server and slots."""
    failure: CbtfleetError = HostGone(
        "the granted host no longer offers this disk over NBD; another is tried"
    )
    for endpoint in endpoints:
        tls = Tls(
            pool.nbd_tls if endpoint.tls else "none",
            endpoint.certificate_pem,
            endpoint.subject,
            pool.ca_file,
        )
        try:
            return connect(
                endpoint.address,
                endpoint.port,
                endpoint.export_name,
                tls,
                deadlines,
                abort=keeper.cut,
                before_step=keeper.still_ours,
            )
        except Unreachable as error:
            failure = error
    raise failure


def _pack_maker(context: StreamContext, work: DiskWork) -> Callable[[int], PackWriter]:
    worker = context.settings.worker
    compare_with = work.facts.compared_with
    known = (
        KnownHashes(context.store, context.keys, run=work.run, disk=work.disk, snapshot=compare_with)
        if compare_with
        else None
    )

    level = logging.WARNING

    def known_of(batch: int) -> bytes:
        """What cannot be compared is stored: no disk fails because of what it could have been spared."""
        nonlocal level
        if known is None:
            return b""
        try:
            return known.of(batch)
        except CbtfleetError as error:
            log.log(level, "%s: its blocks are not compared, all are stored: %s", _disk_name(work), error)
            level = logging.DEBUG  # said once a stream
            return b""

    def new_pack(batch: int) -> PackWriter:
        return PackWriter(
            context.keys,
            disk=work.disk,
            run=work.run,
            batch=batch,
            snapshot=work.snapshot,
            virtual_size=work.virtual_size,
            level=worker.compression_level,
            check=worker.check_sealed,
            known=known_of(batch),
        )

    return new_pack


def _putter(store: Store) -> Callable[[Pack], None]:
    def put(pack: Pack) -> None:
        with suppress(ObjectExists):  # its name is its hash: an earlier attempt put these very bytes
            store.put_if_absent(pack.key, pack.data)

    return put


def _disk_name(work: DiskWork) -> str:
    return f'VM "{work.facts.vm_name or work.vm}", disk {work.facts.name or work.disk}'
