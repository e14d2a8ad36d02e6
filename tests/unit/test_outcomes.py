"""Whom a failed stream blames: three FAILED in a row close a host, so only what is the host's is FAILED."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.fleet_clock import disk_work
from workers.errors import CbtfleetError
from workers.fleet import LedgerUnreachable, Outcome
from workers.nbd import Busy, ConnectionLost, ReadFailed, Stalled, TlsUntrusted, Unreachable
from workers.repository import AccessDenied, ClockWrong, SealCheckFailed, StoreError
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
from workers.xenapi import LoginRefused, NotExportable, PoolUnreachable, SessionLost, XapiFailure

TWO_HOSTS = disk_work("disk", 1, hosts=("h1", "h2"))
ONE_HOST = replace(TWO_HOSTS, hosts=("h1",))


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (NeverOpened("-"), Outcome.CLEAN),
        (Busy("-"), Outcome.BUSY),
        (Unreachable("-"), Outcome.FAILED),
        (Stalled("-"), Outcome.FAILED),
        (ConnectionLost("-"), Outcome.FAILED),
        (ReadFailed("-", errno_name="EIO", offset=0, length=1), Outcome.FAILED),
        (HostGone("-"), Outcome.FAILED),
        (StoreError("-"), Outcome.STORE_AWAY),
        (PoolUnreachable("-"), Outcome.STORE_AWAY),
        (SessionLost("-"), Outcome.STORE_AWAY),
        (NotExportable("-", temporary=True), Outcome.STORE_AWAY),
        (SealCheckFailed(7, "-"), Outcome.STORE_AWAY),
        (ClockWrong("-"), Outcome.STORE_AWAY),
        (Withdrawn("-"), Outcome.LOST),
        (LeaseLost("-"), Outcome.LOST),
        (EndUnseen("-"), Outcome.LOST),
        (LedgerUnreachable("-"), Outcome.LOST),
        (XapiFailure("INTERNAL_ERROR", [], "VDI.get_nbd_info"), Outcome.LOST),
        (XapiFailure("UUID_INVALID", ["VDI", "-"], "VDI.get_by_uuid"), Outcome.FATAL),
        (NotExportable("-"), Outcome.FATAL),
        (WrongSize("-"), Outcome.FATAL),
        (LoginRefused("-"), Outcome.FATAL),
        (AccessDenied("-"), Outcome.FATAL),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, CbtfleetError) else str(value),
)
def test_an_error_and_its_outcome(error: CbtfleetError, outcome: Outcome) -> None:
    assert outcome_of(error, TWO_HOSTS) is outcome


def test_only_what_is_wrong_with_the_machine_stops_the_node() -> None:
    assert stops_the_node(SealCheckFailed(7, "-"))
    assert stops_the_node(ClockWrong("-"))
    for error in (StoreError("-"), AccessDenied("-"), PoolUnreachable("-"), LeaseLost("-"), Busy("-")):
        assert not stops_the_node(error)


def test_a_host_that_refuses_for_good_ends_the_disk_only_when_there_is_no_other() -> None:
    refusal = TlsUntrusted("-")
    assert refusal.advice == "give-up"
    assert outcome_of(refusal, TWO_HOSTS) is Outcome.FAILED
    assert outcome_of(refusal, ONE_HOST) is Outcome.FATAL
