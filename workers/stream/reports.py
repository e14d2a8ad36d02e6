"""What a stream process tells its node's parent, and the end of the supervisor that it does so on.

One report a message over a local socket of packets (see `workers/node/supervisor.py` for the other end):

    event      with
    claiming   owner (`<node>/<pid>`), grant    before the ledger is asked
    passed                                      it was not ours: nothing in hand
    opened     seconds                          since the claim was sent
    batch      read_bytes, stored_bytes         committed
    renewed    seconds                          how long the ledger took
    alive                                       every `renew_every`, whatever Redis does
    stuck                                       the node stops and this cannot: kill it
    unfit      why, exit_code                   stop the node: its machine is at fault
    ended      outcome                          released: nothing in hand

The parent says only {"event": "drain"}.
"""

from __future__ import annotations

import logging
import socket
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

from workers.messages import Grant
from workers.records import Record

log = logging.getLogger(__name__)

DRAIN = b'{"event":"drain"}'
LONGEST_MESSAGE = 16 << 10
_BACKLOG = 1000
_LONGEST_WHY = 2000


@dataclass(frozen=True)
class Report(Record):
    """What one message says."""

    event: Literal["claiming", "passed", "opened", "batch", "renewed", "alive", "stuck", "unfit", "ended"]
    owner: str = ""
    grant: Grant | None = None
    seconds: float = 0.0
    read_bytes: int = 0
    stored_bytes: int = 0
    outcome: str = ""
    why: str = ""
    exit_code: int = 0


class Reports(Protocol):
    """What a stream has to say, and what it wants to hear."""

    def claiming(self, grant: Grant, owner: str) -> None: ...

    def passed(self) -> None: ...

    def opened(self, seconds: float) -> None: ...

    def batch(self, read_bytes: int, stored_bytes: int) -> None: ...

    def renewed(self, seconds: float) -> None: ...

    def alive(self) -> None: ...

    def stuck(self) -> None: ...

    def unfit(self, why: str, exit_code: int) -> None:
        """`why` is the line, and `exit_code` the code, that the whole node shall end with."""

    def ended(self, outcome: str) -> None: ...

    def on_drain(self, listener: Callable[[], None] | None) -> None:
        """Has `listener` called, from another thread, when the node is told to stop; at once if it was."""


class NoReports:
    """Nobody listens: for a stream outside a worker node."""

    def claiming(self, grant: Grant, owner: str) -> None: ...

    def passed(self) -> None: ...

    def opened(self, seconds: float) -> None: ...

    def batch(self, read_bytes: int, stored_bytes: int) -> None: ...

    def renewed(self, seconds: float) -> None: ...

    def alive(self) -> None: ...

    def stuck(self) -> None: ...

    def unfit(self, why: str, exit_code: int) -> None: ...

    def ended(self, outcome: str) -> None: ...

    def on_drain(self, listener: Callable[[], None] | None) -> None: ...


class ReportsToSupervisor:
    """A stream process's end of the supervisor. Its threads may all use it.

    Nothing here ever waits: a parent that is stopped must not stop its streams. What cannot be sent is kept,
    in order, and sent before the next report; of a parent that is gone nothing is said.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._lock = threading.Lock()
        self._unsent: deque[bytes] = deque(maxlen=_BACKLOG)
        self._drain_lock = threading.Lock()
        self._draining = False
        self._listener: Callable[[], None] | None = None

    @classmethod
    def connect(cls, address: str | bytes) -> ReportsToSupervisor:
        """Connects to the parent and listens to it in a thread. Raises OSError when it is not there."""
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            sock.connect(address)
        except OSError:
            sock.close()
            raise
        end = cls(sock)
        threading.Thread(target=end._hear, args=(sock.dup(),), name="supervisor", daemon=True).start()
        return end

    def close(self) -> None:
        with self._lock, self._socket:
            try:
                self._socket.shutdown(socket.SHUT_RDWR)  # ends the listening thread too
            except OSError:
                log.debug("the supervisor had ended before")

    def claiming(self, grant: Grant, owner: str) -> None:
        self._tell(Report("claiming", owner=owner, grant=grant))

    def passed(self) -> None:
        self._tell(Report("passed"))

    def opened(self, seconds: float) -> None:
        self._tell(Report("opened", seconds=seconds))

    def batch(self, read_bytes: int, stored_bytes: int) -> None:
        self._tell(Report("batch", read_bytes=read_bytes, stored_bytes=stored_bytes))

    def renewed(self, seconds: float) -> None:
        self._tell(Report("renewed", seconds=seconds))

    def alive(self) -> None:
        self._tell(Report("alive"))

    def stuck(self) -> None:
        self._tell(Report("stuck"))

    def unfit(self, why: str, exit_code: int) -> None:
        self._tell(Report("unfit", why=why[:_LONGEST_WHY], exit_code=exit_code))

    def ended(self, outcome: str) -> None:
        self._tell(Report("ended", outcome=outcome))

    def on_drain(self, listener: Callable[[], None] | None) -> None:
        with self._drain_lock:
            self._listener = listener
            draining = self._draining
        if draining and listener is not None:
            listener()

    def _tell(self, report: Report) -> None:
        with self._lock:
            self._unsent.append(report.write())
            while self._unsent:
                try:
                    self._socket.send(self._unsent[0], socket.MSG_DONTWAIT)
                except BlockingIOError:
                    return
                except OSError:  # the parent is gone, and we shall be too
                    self._unsent.clear()
                    return
                self._unsent.popleft()

    def _hear(self, sock: socket.socket) -> None:
        with sock:
            while message := _receive(sock):
                if message != DRAIN:
                    continue
                with self._drain_lock:
                    self._draining = True
                    listener = self._listener
                if listener is not None:
                    listener()


def _receive(sock: socket.socket) -> bytes:
    try:
        return sock.recv(LONGEST_MESSAGE)
    except OSError:
        return b""
