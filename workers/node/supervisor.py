"""The supervisor: how a node's parent knows at once that a stream process died, or was stopped.

    stream process                                      parent
      connects at its first grant, after the fork  -->  accepts; the kernel names its process id
      reports (workers/stream/reports.py)                 -->  metrics; which grant it has in hand
                                                   <--  drain: the node stops
      dies: the kernel closes its end              -->  grant in hand: released as LOST
      silent for a lease: it is stopped            -->  killed; the same follows
      finds that this machine must not work        -->  the node stops, as if it had been asked to

A local socket of packets at an address that the kernel chose and that only this user's processes may use.
Only the child itself holds its end, so its end is its death and nothing else.
"""

from __future__ import annotations

import logging
import os
import selectors
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

from workers.errors import CbtfleetError
from workers.fleet import Ledger, Outcome
from workers.logs import bind
from workers.messages import Grant
from workers.records import RecordUnreadable
from workers.stream.reports import DRAIN, LONGEST_MESSAGE, Report

log = logging.getLogger(__name__)

_LOOK_EVERY = 0.5
_PAUSED = 3.0
"""A look that comes so late means that this process was stopped itself, its children perhaps with it."""

_ASK_AGAIN = 0.5


class NodeUnfit(CbtfleetError):
    """What one stream found wrong is the machine: the node has stopped because of it."""

    def __init__(self, why: str, exit_code: int) -> None:
        super().__init__(f"this node has stopped itself: {why}")
        self.exit_code = exit_code


class Observer(Protocol):
    """Who counts what the streams report."""

    def opened(self, seconds: float) -> None: ...

    def batch(self, read_bytes: int, stored_bytes: int) -> None: ...

    def renewed(self, seconds: float) -> None: ...

    def ended(self, outcome: str, batches: int | None) -> None:
        """`batches`: how many over its connection; None when it had none."""

    def killed(self) -> None: ...

    def busy(self, processes: int) -> None: ...


@dataclass
class _Child:
    """One stream process. `grant` is what it has in hand; `certain`: that it claimed it."""

    socket: socket.socket
    process: int
    heard: float
    owner: str = ""
    grant: Grant | None = None
    certain: bool = False
    batches: int | None = None
    killed: bool = False


class Supervisor:
    """The parent's end. `address` is for `ReportsToSupervisor.connect`."""

    def __init__(self, ledger: Ledger, observer: Observer, stop_node: Callable[[], None]) -> None:
        """`stop_node` is called, from another thread, when a stream finds the machine unfit."""
        self._ledger = ledger
        self._observer = observer
        self._stop_node = stop_node
        self.unfit: NodeUnfit | None = None
        self._listener: socket.socket | None = None
        self._children: dict[int, _Child] = {}
        self._end = threading.Event()
        self._drain = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="supervisor", daemon=True)
        self._releases = ThreadPoolExecutor(4, thread_name_prefix="supervisor-release")
        self.address: str | bytes = ""

    def start(self) -> None:
        """Listens; to be called before the first fork."""
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._listener.bind("")  # Linux then chooses a free address that is no file
        self.address = self._listener.getsockname()
        self._listener.listen(128)
        self._listener.setblocking(False)
        self._thread.start()

    def drain(self) -> None:
        """Tells every stream that the node stops. Safe in a signal handler."""
        self._drain.set()

    def stop(self) -> None:
        """After the children have ended: what they left in hand is given back first."""
        self._end.set()
        if self._thread.is_alive():
            self._thread.join()
        self._releases.shutdown()
        self.close_inherited()

    def close_inherited(self) -> None:
        """For a child, right after the fork: its copies of the parent's sockets."""
        for child in self._children.values():
            child.socket.close()
        if self._listener is not None:
            self._listener.close()

    def _watch(self) -> None:
        assert self._listener is not None  # start() made it
        looked = time.monotonic()
        told = False
        with selectors.PollSelector() as selector:
            selector.register(self._listener, selectors.EVENT_READ)
            while not self._end.is_set():
                ready = selector.select(_LOOK_EVERY)
                now = time.monotonic()
                if now - looked > _PAUSED:
                    for child in self._children.values():
                        child.heard = now
                looked = now
                for key, _ in ready:
                    if key.fd == self._listener.fileno():
                        self._accept(selector, now)
                    else:
                        self._receive(selector, self._children[key.fd], now)
                if self._drain.is_set() and not told:
                    told = True
                    for child in self._children.values():
                        _send(child.socket, DRAIN)
                self._kill_silent(now)
            for child in [*self._children.values()]:
                self._receive(selector, child, now)

    def _accept(self, selector: selectors.BaseSelector, now: float) -> None:
        assert self._listener is not None
        try:
            sock, _ = self._listener.accept()
        except OSError:  # it has gone again
            return
        process, user = _peer(sock)
        if user != os.getuid():
            sock.close()
            return
        sock.setblocking(False)
        self._children[sock.fileno()] = _Child(sock, process, now)
        selector.register(sock, selectors.EVENT_READ)
        if self._drain.is_set():
            _send(sock, DRAIN)

    def _receive(self, selector: selectors.BaseSelector, child: _Child, now: float) -> None:
        while True:
            try:
                message = child.socket.recv(LONGEST_MESSAGE)
            except BlockingIOError:
                break
            except OSError:
                message = b""
            if not message:
                selector.unregister(child.socket)
                del self._children[child.socket.fileno()]
                child.socket.close()
                self._died(child)
                break
            child.heard = now
            try:
                report = Report.read(message, f"a report of stream process {child.process}")
            except RecordUnreadable as error:
                log.error("%s", error)
            else:
                self._take_in(child, report)
        self._observer.busy(sum(child.grant is not None for child in self._children.values()))

    def _take_in(self, child: _Child, report: Report) -> None:
        event = report.event
        if event == "claiming":
            child.owner, child.grant = report.owner, report.grant
            child.certain, child.batches = False, None
            return
        child.certain = True
        if event == "opened":
            child.batches = 0
            self._observer.opened(report.seconds)
        elif event == "batch":
            child.batches = (child.batches or 0) + 1
            self._observer.batch(report.read_bytes, report.stored_bytes)
        elif event == "renewed":
            self._observer.renewed(report.seconds)
        elif event == "stuck":
            self._kill(child, "could not stop its stream")
        elif event == "unfit":
            self._stop_unfit(NodeUnfit(report.why, report.exit_code))
        elif event == "passed":
            child.grant = None
        elif event == "ended":
            self._observer.ended(report.outcome, child.batches)
            child.grant = None

    def _stop_unfit(self, error: NodeUnfit) -> None:
        if self.unfit is None:
            self.unfit = error
            log.error("%s", error)
            self._stop_node()

    def _kill_silent(self, now: float) -> None:
        for child in self._children.values():
            if child.grant is not None and now > child.heard + self._ledger.timing.lease:
                self._kill(child, "was silent for longer than its lease")

    def _kill(self, child: _Child, why: str) -> None:
        """By its own process id, which is still its own: its end of the supervisor is open."""
        if not child.killed:
            child.killed = True
            log.warning("stream process %d %s; it is killed", child.process, why)
            self._observer.killed()
            with suppress(ProcessLookupError):
                os.kill(child.process, signal.SIGKILL)

    def _died(self, child: _Child) -> None:
        if child.grant is not None:
            self._observer.ended(Outcome.LOST, child.batches)
            self._releases.submit(self._release, child.grant, child.owner, child.certain)

    def _release(self, grant: Grant, owner: str, certain: bool) -> None:
        """Gives back what a dead process had in hand: its batches need not wait for its lease to run out.

        The kernel has closed its connection; the slot rests until the host has noticed. Of a process that
        died while it asked for its claim nobody knows whether it, or another with a doubled message, got it.
        """
        with bind(run=grant.run, disk=grant.disk, host=grant.host, slot=grant.slot, fence=grant.fence):
            log.warning(
                "a stream process died (slot %d of host %s); its batches are given back",
                grant.slot,
                grant.host,
            )
            until = time.monotonic() + self._ledger.timing.lease
            while True:
                try:
                    if certain or self._claimed(grant, owner):
                        why = "the worker process that read it died"
                        self._ledger.release(grant, Outcome.LOST, why, owner=owner)
                    return
                except CbtfleetError as error:
                    if time.monotonic() >= until or self._end.is_set():
                        log.warning("the batches wait for the lease to run out: %s", error)
                        return
                time.sleep(_ASK_AGAIN)

    def _claimed(self, grant: Grant, owner: str) -> bool:
        slots = self._ledger.slots(grant.pool, grant.host)
        return any(
            (slot.number, slot.fence, slot.owner) == (grant.slot, grant.fence, owner) for slot in slots
        )


def _send(sock: socket.socket, message: bytes) -> None:
    with suppress(OSError):  # it dies: its end will be seen
        sock.send(message)


def _peer(sock: socket.socket) -> tuple[int, int]:
    """Process id and user id of the other end, as the kernel knows them (unix(7), SO_PEERCRED)."""
    credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    process, user = (
        int.from_bytes(credentials[at : at + 4], byteorder=sys.byteorder, signed=True) for at in (0, 4)
    )
    return process, user
