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

from workers.endpoints import Endpoint, NotExportable, nbd_endpoints
from workers.errors import CbtfleetError, ConfigurationError
from workers.extents import Plan
from workers.fleet import Claim, Ledger, LedgerUnreachable, Next, Outcome, Verdict
from workers.messages import Grant
from workers.nbd import Abort, Busy, Connection, Deadlines, NbdError, Tls, Unreachable, connect
from workers.repository import AccessDenied, ObjectExists, Pack, PackWriter, Store, WorkerKeys
from workers.settings import PoolSettings, Settings
from workers.transfer import Transfer
from workers.xapi import LoginRefused, PoolUntrusted, Session

log = logging.getLogger(__name__)


class HostGone(CbtfleetError):
    """The granted host no longer offers the disk."""


class WrongSize(CbtfleetError):
    """The exported disk is not the one that was planned."""


class LeaseLost(CbtfleetError):
    """The ledger gave this stream's slot to nobody or to somebody else."""


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
    """Renews one grant's lease from a thread of its own, and cuts the connection when it cannot.

    The cut comes `fence_after` seconds after the *sending* of the last renewal that was answered, by a
    clock that no one can set: before anyone else may think that the slot is free.
    """

    def __init__(self, ledger: Ledger, grant: Grant) -> None:
        self._ledger = ledger
        self._grant = grant
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="lease", daemon=True)
        self.cut = Abort()
        """Cuts the connection that was opened with it, also one that is still being opened."""
        self.lost = False

    def __enter__(self) -> LeaseKeeper:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end.set()
        self._thread.join()

    def _keep(self) -> None:
        timing = self._ledger.timing
        acknowledged = time.monotonic()
        while not self._end.wait(timing.renew_every):
            sent = time.monotonic()
            try:
                [alive] = self._ledger.renew([self._grant])
            except LedgerUnreachable as error:
                log.warning("lease not renewed: %s", error)
                alive = True
            else:
                acknowledged = sent
            if not alive or time.monotonic() - acknowledged > timing.cut_after:
                self.lost = True
                self.cut.throw()
                return


class _Batches:
    """The ledger as the transfer sees it: this grant's batches."""

    def __init__(self, ledger: Ledger, grant: Grant) -> None:
        self._ledger = ledger
        self._grant = grant

    def take(self) -> Next:
        return self._ledger.take(self._grant)

    def commit(self, batch: int, read_bytes: int, stored_bytes: int) -> Next:
        return self._ledger.commit(self._grant, batch, read_bytes, stored_bytes)


def run_stream(context: StreamContext, grant: Grant) -> None:
    """Works off one grant. A grant that is no longer ours is dropped without a word: messages are hints.

    Raises nothing that retrying could heal: a failed stream is released as such, and the ledger decides
    about another attempt.
    """
    claim = context.ledger.claim(grant, context.owner)
    if claim is None:
        log.info("grant of slot %d on host %s has passed; dropped", grant.slot, grant.host)
        return
    name = _disk_name(claim)
    outcome = Outcome.FAILED
    why: str | None = f"{name}: the worker stopped in the middle"
    try:
        with LeaseKeeper(context.ledger, grant) as keeper:
            verdict = _transfer(context, grant, claim, keeper)
        outcome, why = Outcome.CLEAN, None
        log.info("%s: stream on host %s ended: %s", name, grant.host, verdict)
    except CbtfleetError as error:
        outcome, why = _outcome_of(error, claim), f"{name}: {error}"
        log.warning("%s (%s)", why, outcome)
    finally:
        context.ledger.release(grant, outcome, why)


def _transfer(context: StreamContext, grant: Grant, claim: Claim, keeper: LeaseKeeper) -> Verdict:
    plan = Plan.unpack(context.ledger.plan(grant.run, grant.disk), claim.work.virtual_size)
    pool = context.settings.pool(grant.pool)
    with Session.login(grant.pool, pool) as session:
        snapshot = session.call("VDI.get_by_uuid", claim.work.snapshot)
        endpoints = nbd_endpoints(session, snapshot, _disk_name(claim))
        ours = [each for each in endpoints if each.host == grant.host]
        try:
            connection = _connect(ours, pool, context.deadlines, keeper.cut)
            try:
                verdict = _read_batches(context, grant, claim, plan, connection)
                connection.close()
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
    context: StreamContext, grant: Grant, claim: Claim, plan: Plan, connection: Connection
) -> Verdict:
    if connection.size != claim.work.virtual_size:
        raise WrongSize(
            f"the host exports {connection.size} bytes but the plan is for {claim.work.virtual_size};"
            " the snapshot was changed under the backup"
        )
    if not context.ledger.opened(grant):
        raise LeaseLost("the lease on the connection slot ran out while connecting")
    batches = _Batches(context.ledger, grant)
    return Transfer(connection, plan, batches, _pack_maker(context, claim), _putter(context.store)).run()


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


def _pack_maker(context: StreamContext, claim: Claim) -> Callable[[int], PackWriter]:
    work, worker = claim.work, context.settings.worker

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


def _outcome_of(error: CbtfleetError, claim: Claim) -> Outcome:
    """What the ledger shall do about a failed stream."""
    if isinstance(error, Busy):
        return Outcome.BUSY
    if isinstance(error, NotExportable):
        return Outcome.FAILED if error.temporary else Outcome.FATAL
    hopeless = (WrongSize, ConfigurationError, LoginRefused, PoolUntrusted, AccessDenied)
    if isinstance(error, hopeless):
        return Outcome.FATAL
    if isinstance(error, NbdError) and error.advice == "give-up" and len(claim.work.hosts) == 1:
        return Outcome.FATAL
    return Outcome.FAILED


def _disk_name(claim: Claim) -> str:
    facts = claim.work.facts
    return f'VM "{facts.get("vm_name", claim.work.vm)}", disk {facts.get("name") or claim.work.disk}'
