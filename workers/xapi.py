"""The old place of `workers.xenapi`; goes when nobody imports it."""

from workers.xenapi import (
    AnswerLost,
    BadAnswer,
    CallTimedOut,
    LoginRefused,
    PoolUnreachable,
    PoolUntrusted,
    Session,
    SessionLost,
    XapiError,
    XapiFailure,
    warn_once,
)

__all__ = [
    "AnswerLost",
    "BadAnswer",
    "CallTimedOut",
    "LoginRefused",
    "PoolUnreachable",
    "PoolUntrusted",
    "Session",
    "SessionLost",
    "XapiError",
    "XapiFailure",
    "warn_once",
]
