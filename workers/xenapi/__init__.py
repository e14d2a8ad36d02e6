"""Both planes' library. A pool's XenAPI: sessions, what can go wrong, where a disk is read over NBD."""

from workers.xenapi.connection import warn_once
from workers.xenapi.endpoints import Endpoint, NotExportable, nbd_endpoints
from workers.xenapi.errors import (
    AnswerLost,
    BadAnswer,
    CallCancelled,
    CallTimedOut,
    HostStarting,
    LoginRefused,
    NotServed,
    PoolUnreachable,
    PoolUntrusted,
    SessionLost,
    XapiError,
    XapiFailure,
)
from workers.xenapi.memory import PoolMemory
from workers.xenapi.networks import NbdHost, NbdNetwork, PoolNbd, explain_pool_nbd
from workers.xenapi.records import (
    NULL_REF,
    XapiRecord,
    XapiRecords,
    is_gone,
    is_unknown_call,
    record_or_none,
    records_where,
    ref_or_none,
)
from workers.xenapi.session import Session
from workers.xenapi.sessions import Sessions

__all__ = [
    "NULL_REF",
    "AnswerLost",
    "BadAnswer",
    "CallCancelled",
    "CallTimedOut",
    "Endpoint",
    "HostStarting",
    "LoginRefused",
    "NbdHost",
    "NbdNetwork",
    "NotExportable",
    "NotServed",
    "PoolMemory",
    "PoolNbd",
    "PoolUnreachable",
    "PoolUntrusted",
    "Session",
    "SessionLost",
    "Sessions",
    "XapiError",
    "XapiFailure",
    "XapiRecord",
    "XapiRecords",
    "explain_pool_nbd",
    "is_gone",
    "is_unknown_call",
    "nbd_endpoints",
    "record_or_none",
    "records_where",
    "ref_or_none",
    "warn_once",
]
