"""A pool's XenAPI: sessions, what can go wrong with them, and where a disk can be read over NBD."""

from workers.xenapi.connection import warn_once
from workers.xenapi.endpoints import Endpoint, NotExportable, nbd_endpoints
from workers.xenapi.errors import (
    AnswerLost,
    BadAnswer,
    CallTimedOut,
    LoginRefused,
    PoolUnreachable,
    PoolUntrusted,
    SessionLost,
    XapiError,
    XapiFailure,
)
from workers.xenapi.networks import NbdHost, NbdNetwork, PoolNbd, explain_pool_nbd
from workers.xenapi.session import Session

__all__ = [
    "AnswerLost",
    "BadAnswer",
    "CallTimedOut",
    "Endpoint",
    "LoginRefused",
    "NbdHost",
    "NbdNetwork",
    "NotExportable",
    "PoolNbd",
    "PoolUnreachable",
    "PoolUntrusted",
    "Session",
    "SessionLost",
    "XapiError",
    "XapiFailure",
    "explain_pool_nbd",
    "nbd_endpoints",
    "warn_once",
]
