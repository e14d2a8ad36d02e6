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
from workers.xenapi.session import Session
from workers.xenapi.sessions import Sessions

__all__ = [
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
    "explain_pool_nbd",
    "nbd_endpoints",
    "warn_once",
]
