"""What can go wrong with a pool's XenAPI: the class tells the caller what it may do next.

`workers.xenapi.login` translates every foreign exception into one of these; `meanings` has the words.
"""

from __future__ import annotations

from workers.errors import CbtfleetError, ConfigurationError
from workers.xenapi.meanings import failure_text


class XapiError(CbtfleetError):
    """Something about a pool's XenAPI failed."""


class PoolUnreachable(XapiError):
    """No connection, no master, or a host that is not ready: nothing was run, trying again later is safe."""


class PoolUntrusted(XapiError, ConfigurationError):
    """The certificate is not the one we were told to trust. Nothing was sent, not even the user name."""


class LoginRefused(XapiError, ConfigurationError):
    """Wrong user name or password, or a user who may not use this pool."""


class HostStarting(PoolUnreachable):
    """A host answers, but is not ready yet: soon it is."""


class SessionLost(XapiError):
    """The session is gone (logged out, expired, evicted, or another master): log in again.

    `moved`: the pool has another master now, which may still know the session.
    """

    def __init__(self, text: str, moved: bool = False) -> None:
        super().__init__(text)
        self.moved = moved


class CallCancelled(XapiError):
    """We were told to stop while a task ran. It was asked to cancel; `ended`: it was seen to end, undone."""

    def __init__(self, text: str, ended: bool) -> None:
        super().__init__(text)
        self.ended = ended


class AnswerLost(XapiError):
    """The call was sent and no usable answer came: it may or may not have run. Look before doing it again.

    So it is of a call that runs as a task, once that was begun, whatever keeps us from asking for it.
    """


class CallTimedOut(AnswerLost):
    """No answer in time, or a task that did not end before its deadline (and was asked to cancel)."""


class BadAnswer(AnswerLost):
    """An answer that is not XenAPI: an HTTP error, broken XML, or a reply without its parts."""


class NotServed(XapiError):
    """This pool's XAPI has nothing at that path."""


class XapiFailure(XapiError):
    """XAPI answered with a failure: `code` and `params` as it sent them, the meaning in the text.

    `params` may hold references of objects, never the session's; the text holds no reference at all.
    """

    def __init__(self, code: str, params: list[str], method: str, pool: str = "") -> None:
        super().__init__(failure_text(code, params, method, pool))
        self.code = code
        self.params = params
        self.method = method
        self.pool = pool

    def __reduce__(self) -> tuple[type[XapiFailure], tuple[str, list[str], str, str]]:
        return type(self), (self.code, self.params, self.method, self.pool)
