"""Both planes' library. The NBD client: reads a disk from a XenServer host, or from any server of the
fixed newstyle protocol.

errors <- protocol <- handshake <--+-- connection
errors <- {trust, channel} <- tls <+          <- probe

`protocol`, `handshake` and `trust` know no socket; only `tls` knows ssl.
"""

from workers.nbd.channel import Abort
from workers.nbd.connection import DEFAULT_WINDOW, Connection, Deadlines, Read, connect
from workers.nbd.errors import (
    Advice,
    Busy,
    ConnectionLost,
    ExportRefused,
    InvalidRead,
    NbdError,
    ProtocolViolation,
    ReadFailed,
    Stalled,
    TlsFailed,
    TlsMisconfigured,
    TlsRefused,
    TlsUntrusted,
    Unreachable,
)
from workers.nbd.probe import Probe, ProbeState, probe_server
from workers.nbd.protocol import MAX_READ
from workers.nbd.trust import Tls

__all__ = [
    "DEFAULT_WINDOW",
    "MAX_READ",
    "Abort",
    "Advice",
    "Busy",
    "Connection",
    "ConnectionLost",
    "Deadlines",
    "ExportRefused",
    "InvalidRead",
    "NbdError",
    "Probe",
    "ProbeState",
    "ProtocolViolation",
    "Read",
    "ReadFailed",
    "Stalled",
    "Tls",
    "TlsFailed",
    "TlsMisconfigured",
    "TlsRefused",
    "TlsUntrusted",
    "Unreachable",
    "connect",
    "probe_server",
]
