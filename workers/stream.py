"""One granted connection, from the claim to the release.

claim -> log in -> get_nbd_info -> connect to the granted host -> opened -> Transfer -> close -> release
                                                                     ^
                          lease renewed every 5 s, or the connection is cut
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType

from workers.errors import CbtfleetError, ConfigurationError
from workers.extents import Plan
from workers.fleet import DiskWork, Ledger, Next, Outcome, Verdict
from workers.messages import Grant
from workers.nbd import Abort, Busy, Connection, Deadlines, NbdError, Tls, Unreachable, connect
from workers.repository import AccessDenied, ObjectExists, Pack, PackWriter, Store, WorkerKeys
from workers.settings import PoolSettings, Settings
from workers.transfer import Transfer
from workers.xenapi import Endpoint, LoginRefused, NotExportable, PoolUntrusted, Session, nbd_endpoints

log = logging.getLogger(__name__)


class HostGone(CbtfleetError):
    """The granted host no longer offers the disk."""


class WrongSize(CbtfleetError):
    """The exported disk is not the one that was planned."""


class LeaseLost(CbtfleetError):
    """The ledger gave this stream's slot to nobody or to somebody else."""


class EndUnseen(CbtfleetError):
    """The connection ended, but the host was not seen to let go of it: it may still count it for a while."""


@dataclass(frozen=True)
class StreamContext:
    """What a worker process needs for every stream: opened once, after the fork."""

    settings: Settings
    ledger: Ledger
    store: Store
    keys: WorkerKeys
    owner: str
    deadlines: Deadlines = field(default_factory=Deadlines)


class LeaseKeeper:
    """Renews one grant's lease, and cuts the connection when it could not.

    The cut comes `cut_after` seconds after the *sending* of the last renewal that was answered, by a clock
    that no one can set: before anyone else may think that the slot is free. It has a thread of its own, as a
    renewal to a Redis that hangs takes long to fail.
    """

    def __init__(self, ledger: Ledger, grant: Grant, owner: str, claimed: float) -> None:
        """`claimed` is when the claim was sent, on the monotonic clock."""
        self._ledger = ledger
        self._grant = grant
        self._owner = owner
        self._end = threading.Event()
        self._acknowledged = claimed
        self._threads = [
            threading.Thread(target=self._renew, name="lease-renew", daemon=True),
            threading.Thread(target=self._watch, name="lease-watch", daemon=True),
        ]
        self.cut = Abort()
        """Cuts the connection that was opened with it, also one that is still being opened."""
        self.lost = False

    def __enter__(self) -> LeaseKeeper:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end.set()
        for thread in self._threads:
            thread.join()

    def _renew(self) -> None:
        while not self._end.wait(self._ledger.timing.renew_every):
            sent = time.monotonic()
            try:
                [alive] = self._ledger.renew([self._grant], owner=self._owner)
            except CbtfleetError as error:
                log.warning("lease not renewed: %s", error)
                continue
            if not alive:
                self._lose()
                return
            self._acknowledged = sent

    def _watch(self) -> None:
        cut_after = self._ledger.timing.cut_after
        while not self._end.wait(max(self._acknowledged + cut_after - time.monotonic(), 0.0)):
            if time.monotonic() >= self._acknowledged + cut_after:
                self._lose()
                return

    def _lose(self) -> None:
        self.lost = True
        self.cut.throw()


class _Batches:
    """The ledger as the transfer sees it: this grant's batches."""

    def __init__(self, ledger: Ledger, grant: Grant, owner: str) -> None:
        self._ledger = ledger
        self._grant = grant
        self._owner = owner

    def take(self) -> Next:
        return self._ledger.take(self._grant, owner=self._owner)

    def commit(self, batch: int, read_bytes: int, stored_bytes: int) -> Next:
        return self._ledger.commit(self._grant, batch, read_bytes, stored_bytes, owner=self._owner)


def run_stream(context: StreamContext, grant: Grant) -> None:
    """Works off one grant. A grant that is no longer ours is dropped without a word: messages are hints.

    Raises nothing that retrying could heal: a failed stream is released as such, and the ledger decides
    about another attempt.
    """
    sent = time.monotonic()
    work = context.ledger.claim(grant, context.owner)
    if work is None:
        log.info("grant of slot %d on host %s has passed; dropped", grant.slot, grant.host)
        return
    name = _disk_name(work)
    outcome = Outcome.FAILED
    why: str | None = f"{name}: the worker stopped in the middle"
    try:
        with LeaseKeeper(context.ledger, grant, context.owner, sent) as keeper:
            verdict = _transfer(context, grant, work, keeper)
        outcome, why = Outcome.CLEAN, None
        log.info("%s: stream on host %s ended: %s", name, grant.host, verdict)
    except CbtfleetError as error:
        outcome, why = _outcome_of(error, work), f"{name}: {error}"
        log.warning("%s (%s)", why, outcome)
    finally:
        context.ledger.release(grant, outcome, why, owner=context.owner)


def _transfer(context: StreamContext, grant: Grant, work: DiskWork, keeper: LeaseKeeper) -> Verdict:
    plan = Plan.unpack(context.ledger.plan(grant.run, grant.disk), work.virtual_size)
    pool = context.settings.pool(grant.pool)
    with Session.login(grant.pool, pool) as session:
        snapshot = session.call("VDI.get_by_uuid", work.snapshot)
        endpoints = nbd_endpoints(session, snapshot, _disk_name(work))
        ours = [each for each in endpoints if each.host == grant.host]
        try:
            connection = _connect(ours, pool, context.deadlines, keeper.cut)
            try:
                verdict = _read_batches(context, grant, work, plan, connection)
                if not connection.close():
                    raise EndUnseen(f"connection cut, or not closed by the host in time ({verdict})")
                return verdict
            finally:
                connection.abort()
        except NbdError as error:
            if keeper.lost:
                raise LeaseLost(
                    "the lease on the connection slot could not be kept; connection cut"
                ) from error
            raise


def _read_batches(
    context: StreamContext, grant: Grant, work: DiskWork, plan: Plan, connection: Connection
) -> Verdict:
    if connection.size != work.virtual_size:
        raise WrongSize(
            f"the host exports {connection.size} bytes but the plan is for {work.virtual_size};"
            " the snapshot was changed under the backup"
        )
    if not context.ledger.opened(grant, owner=context.owner):
        raise LeaseLost("the lease on the connection slot ran out while connecting")
    batches = _Batches(context.ledger, grant, context.owner)
    return Transfer(connection, plan, batches, _pack_maker(context, work), _putter(context.store)).run()


def _connect(endpoints: list[Endpoint], pool: PoolSettings, deadlines: Deadlines, cut: Abort) -> Connection:
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
            return connect(endpoint.address, endpoint.port, endpoint.export_name, tls, deadlines, abort=cut)
        except Unreachable as error:
            failure = error
    raise failure


def _pack_maker(context: StreamContext, work: DiskWork) -> Callable[[int], PackWriter]:
    worker = context.settings.worker

    def new_pack(batch: int) -> PackWriter:
        return PackWriter(
            context.keys,
            disk=work.disk,
            run=work.run,
            batch=batch,
            virtual_size=work.virtual_size,
            level=worker.compression_level,
            check=worker.check_sealed,
        )

    return new_pack


def _putter(store: Store) -> Callable[[Pack], None]:
    def put(pack: Pack) -> None:
        with suppress(ObjectExists):  # its name is its hash: an earlier attempt put these very bytes
            store.put_if_absent(pack.key, pack.data)

    return put


def _outcome_of(error: CbtfleetError, work: DiskWork) -> Outcome:
    """What the ledger shall do about a failed stream."""
    if isinstance(error, Busy):
        return Outcome.BUSY
    if isinstance(error, NotExportable):
        return Outcome.FAILED if error.temporary else Outcome.FATAL
    hopeless = (WrongSize, ConfigurationError, LoginRefused, PoolUntrusted, AccessDenied)
    if isinstance(error, hopeless):
        return Outcome.FATAL
    if isinstance(error, NbdError) and error.advice == "give-up" and len(work.hosts) == 1:
        return Outcome.FATAL
    return Outcome.FAILED


def _disk_name(work: DiskWork) -> str:
    facts = work.facts
    return f'VM "{facts.get("vm_name", work.vm)}", disk {facts.get("name") or work.disk}'
