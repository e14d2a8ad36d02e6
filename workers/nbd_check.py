"""Would a stream get in at this host? Asked by the control plane, which has nothing else to do with NBD.

Only the server is met, up to its certificate: no disk is plugged, and the connection's place is given back at
once (docs/adr/0055-the-doctor-meets-the-hosts.md).
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Literal

from workers.nbd import (
    Busy,
    Deadlines,
    NbdError,
    Stalled,
    Tls,
    TlsMisconfigured,
    TlsRefused,
    TlsUntrusted,
    Unreachable,
    meet,
)
from workers.settings import PoolSettings

DEADLINES = Deadlines(connect=5, handshake=10, greeting=5, close=2)
"""Shorter than a stream's: a person waits, and no disk is to be attached."""


@dataclass(frozen=True)
class Meeting:
    """How a host's NBD server received us. `said` is one line, without anything secret."""

    state: Literal["good", "busy", "unreachable", "silent", "untrusted", "no-tls", "failed"]
    said: str
    seconds: float


def meet_server(
    address: str, port: int, pool: PoolSettings, certificate_pem: str | None, subject: str | None, tls: bool
) -> Meeting:
    """With the trust that streams of this pool have; `tls` is False on an insecure_nbd network.

    `certificate_pem` and `subject` as XAPI tells them of the host. Raises nothing.
    """
    trust = Tls(pool.nbd_tls if tls else "none", certificate_pem, subject, pool.ca_file)
    began = time.monotonic()
    try:
        said = meet(address, port, trust, DEADLINES)
    except NbdError as error:
        return Meeting(_state(error), str(error), time.monotonic() - began)
    return Meeting("good", said, time.monotonic() - began)


def _state(
    error: NbdError,
) -> Literal["busy", "unreachable", "silent", "untrusted", "no-tls", "failed"]:
    if isinstance(error, Busy):
        return "busy"
    if isinstance(error, Unreachable):
        return "unreachable"
    if isinstance(error, Stalled):
        return "silent"
    if isinstance(error, TlsUntrusted | TlsMisconfigured):
        return "untrusted"
    return "no-tls" if isinstance(error, TlsRefused) else "failed"
