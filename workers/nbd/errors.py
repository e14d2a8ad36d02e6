"""What can go wrong with an NBD server. Each class says in `advice` what the caller does next.

back-off          the host is full or not ready: try again later, here or elsewhere
retry-elsewhere   this connection is lost: open another one, best to another host
give-up           trying again cannot help until a person has changed something
"""

from __future__ import annotations

from typing import ClassVar, Literal

from workers.errors import CbtfleetError, ConfigurationError

Advice = Literal["back-off", "retry-elsewhere", "give-up"]


class NbdError(CbtfleetError):
    """Something failed on one NBD connection, which is of no further use."""

    advice: ClassVar[Advice] = "give-up"


class Busy(NbdError):
    """The server closed the connection before its greeting.

    XenServer does that to the 17th connection, and also when no network has an NBD purpose or when XAPI does
    not answer: the three cannot be told apart.
    """

    advice: ClassVar[Advice] = "back-off"


class Unreachable(NbdError):
    """No TCP connection: refused, no route, unknown name, or no answer in time. No slot was taken."""

    advice: ClassVar[Advice] = "retry-elsewhere"


class TlsMisconfigured(NbdError, ConfigurationError):
    """What is needed to check the server's certificate is missing or unreadable. Nothing was opened."""


class TlsFailed(NbdError):
    """The TLS handshake did not succeed, for a reason other than the server's certificate."""

    advice: ClassVar[Advice] = "retry-elsewhere"


class TlsRefused(TlsFailed):
    """The server answered STARTTLS with a refusal. We never go on without TLS, so a person must look."""

    advice: ClassVar[Advice] = "give-up"


class TlsUntrusted(NbdError):
    """The server is not shown to be the right one. Nothing but the handshake was sent to it."""


class ExportRefused(NbdError):
    """The server closed the connection instead of opening the disk. It never says why."""

    advice: ClassVar[Advice] = "retry-elsewhere"


class ConnectionLost(NbdError):
    """The connection ended while something was still to come, or was aborted on our side."""

    advice: ClassVar[Advice] = "retry-elsewhere"


class Stalled(NbdError):
    """A deadline passed."""

    advice: ClassVar[Advice] = "retry-elsewhere"


class ReadFailed(NbdError):
    """The server answered a read with an error. XenServer ends the connection after that."""

    advice: ClassVar[Advice] = "retry-elsewhere"

    def __init__(self, message: str, *, errno_name: str, offset: int, length: int) -> None:
        super().__init__(message)
        self.errno_name = errno_name
        self.offset = offset
        self.length = length


class ProtocolViolation(NbdError):
    """The peer does not speak NBD as it should: not an NBD server, or a broken one."""


class InvalidRead(NbdError):
    """A read that must not be sent: outside the disk, empty, too long, or into an unusable buffer.

    XenServer answers a read beyond the end with success and then closes the connection.
    """
