"""What a stream's end means for the ledger: whom it blames, and when the disk is tried again.

    what happened                                            outcome      the ledger
    connection closed and the host's end seen, or none made  CLEAN        slot rests shortly
    rejected before the greeting                             BUSY         host's cap one lower for a while
    the host or the way to it: unreachable, silent, broken   FAILED       attempt; the host goes last, and is
      off, refused, a failed read, disk no longer offered                   closed after three in a row
    the store took no pack                                   STORE_AWAY   back-off, no attempt, nobody's fault
    the pool's XenAPI away, or offers no address for now     STORE_AWAY   the same: any host would have failed
    this machine seals wrongly, or its clock is wrong        STORE_AWAY   the same; and the node stops
    the slot was lost, the node stops, a failure that XAPI   LOST         attempt; the host is not blamed
      reports, the ledger away, the host's end not seen
    wrong password, untrusted pool, no access to the store,  FATAL        the disk fails: a person must look
      a snapshot that is gone or changed, the only host
      refuses for good, an order that nobody has signed

Three failures in a row close a host for everybody, so FAILED is only what another host would not have shared.
"""

from __future__ import annotations

from workers.errors import CbtfleetError, ConfigurationError, MachineUnfit
from workers.fleet import DiskWork, Outcome
from workers.nbd import Busy, NbdError
from workers.repository import AccessDenied, ClockWrong, OrderNotSigned, StoreError
from workers.xenapi import (
    AnswerLost,
    LoginRefused,
    NotExportable,
    PoolUnreachable,
    PoolUntrusted,
    SessionLost,
    is_gone,
)


class HostGone(CbtfleetError):
    """The granted host no longer offers the disk."""


class WrongSize(CbtfleetError):
    """The exported disk is not the one that was planned."""


class LeaseLost(CbtfleetError):
    """The ledger gave this stream's slot to nobody or to somebody else."""


class EndUnseen(CbtfleetError):
    """The connection ended, but the host was not seen to let go of it: it may still count it for a while."""


class Withdrawn(CbtfleetError):
    """The run was cancelled or the node stops, and the host kept the stream waiting: connection cut."""


class NeverOpened(Withdrawn):
    """The same, before there was a connection."""


_HOPELESS = (WrongSize, OrderNotSigned, ConfigurationError, LoginRefused, PoolUntrusted, AccessDenied)
_OF_THIS_MACHINE = (MachineUnfit, ClockWrong)
_SHARED = (*_OF_THIS_MACHINE, StoreError, PoolUnreachable, SessionLost, AnswerLost)


def stops_the_node(error: CbtfleetError) -> bool:
    """Whether every stream of this machine would fail like this one, and those of others would not."""
    return isinstance(error, _OF_THIS_MACHINE)


def outcome_of(error: CbtfleetError, work: DiskWork) -> Outcome:
    """The outcome to release with, by the table above."""
    if isinstance(error, NeverOpened):
        return Outcome.CLEAN
    if isinstance(error, Busy):
        return Outcome.BUSY
    if isinstance(error, NotExportable):
        return Outcome.STORE_AWAY if error.temporary else Outcome.FATAL
    if isinstance(error, _HOPELESS) or is_gone(error):
        return Outcome.FATAL
    if isinstance(error, _SHARED):
        return Outcome.STORE_AWAY
    if isinstance(error, NbdError):
        only = error.advice == "give-up" and len(work.hosts) == 1
        return Outcome.FATAL if only else Outcome.FAILED
    return Outcome.FAILED if isinstance(error, HostGone) else Outcome.LOST
