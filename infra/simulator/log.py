"""What happened on the pool, for tests to judge by: connections, reads, refusals, calls."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass
class ConnectionEntry:
    """One accepted NBD connection; times are seconds since the epoch."""

    id: int
    host: str
    address: str
    opened: float
    peak: int
    """Slots in use on the host, this one included, when it was accepted."""
    vdi: str | None = None
    asked: float | None = None
    """When EXPORT_NAME came; the disk is being plugged until `answered`."""
    answered: float | None = None
    closed: float | None = None
    outcome: str = "open"
    """open, disconnected, closed-by-client, rejected-busy, rejected-no-purpose, or what went wrong."""
    bytes: int = 0
    freed: float | None = None
    """When its slot became free: the disk was unplugged before that."""


@dataclass
class ActivityLog:
    connections: list[ConnectionEntry] = field(default_factory=list)
    reads: list[tuple[str, str, int, int, int]] = field(default_factory=list)
    """(host, vdi, offset, length, connection id), in the order in which they were answered."""
    calls: Counter[str] = field(default_factory=Counter)
    peak_calls: dict[str, int] = field(default_factory=dict)
    """By method, without "Async.": the most that ran at once."""
    rejects: Counter[str] = field(default_factory=Counter)
    peak: dict[str, int] = field(default_factory=dict)
    peak_sockets: dict[str, int] = field(default_factory=dict)
    _lock: threading.Condition = field(default_factory=threading.Condition, repr=False)
    """Notified when a slot becomes free."""
    _running: Counter[str] = field(default_factory=Counter)
    _slots: Counter[str] = field(default_factory=Counter)
    _sockets: Counter[str] = field(default_factory=Counter)
    _next: int = 1

    def accepted(self, host: str, address: str, limit: int) -> tuple[ConnectionEntry, bool]:
        """A connection came in; False: all slots are taken, so it was counted as rejected."""
        with self._lock:
            entry = ConnectionEntry(self._next, host, address, time.time(), self._slots[host])
            self._next += 1
            self.connections.append(entry)
            if self._slots[host] >= limit:
                entry.outcome, entry.closed = "rejected-busy", entry.opened
                self.rejects[host] += 1
                return entry, False
            self._slots[host] += 1
            self._sockets[host] += 1
            entry.peak += 1
            self.peak[host] = max(self.peak.get(host, 0), self._slots[host])
            self.peak_sockets[host] = max(self.peak_sockets.get(host, 0), self._sockets[host])
            return entry, True

    def asked(self, entry: ConnectionEntry, vdi: str) -> None:
        with self._lock:
            entry.vdi, entry.asked = vdi, time.time()

    def answered(self, entry: ConnectionEntry) -> None:
        with self._lock:
            entry.answered = time.time()

    def socket_closed(self, entry: ConnectionEntry, outcome: str) -> None:
        with self._lock:
            entry.closed, entry.outcome = time.time(), outcome
            self._sockets[entry.host] -= 1

    def slot_freed(self, entry: ConnectionEntry) -> None:
        with self._lock:
            self._slots[entry.host] -= 1
            entry.freed = time.time()
            self._lock.notify_all()

    def wait_until_all_slots_are_free(self, seconds: float) -> bool:
        """False when some are still taken after that long."""
        with self._lock:
            return self._lock.wait_for(lambda: not any(self._slots.values()), seconds)

    def slots_in_use(self, host: str) -> int:
        with self._lock:
            return self._slots[host]

    def read(self, entry: ConnectionEntry, offset: int, length: int) -> None:
        with self._lock:
            self.reads.append((entry.host, entry.vdi or "", offset, length, entry.id))
            entry.bytes += length

    def called(self, method: str) -> None:
        with self._lock:
            self.calls[method] += 1

    @contextmanager
    def running(self, method: str) -> Iterator[None]:
        """While a call runs, whichever way it was made."""
        with self._lock:
            self._running[method] += 1
            self.peak_calls[method] = max(self.peak_calls.get(method, 0), self._running[method])
        try:
            yield
        finally:
            with self._lock:
                self._running[method] -= 1

    def clear(self) -> None:
        """Forgets all but what is open now."""
        with self._lock:
            self.connections = [entry for entry in self.connections if entry.closed is None]
            self.reads.clear()
            self.calls.clear()
            self.peak_calls = {method: count for method, count in self._running.items() if count}
            self.rejects.clear()
            self.peak = {host: slots for host, slots in self._slots.items() if slots}
            self.peak_sockets = {host: sockets for host, sockets in self._sockets.items() if sockets}

    def as_json(self) -> dict[str, Any]:
        with self._lock:
            names = ("host", "vdi", "offset", "length", "connection")
            return {
                "connections": [asdict(entry) for entry in self.connections],
                "reads": [dict(zip(names, read, strict=True)) for read in self.reads],
                "peak": dict(self.peak),
                "peak_sockets": dict(self.peak_sockets),
                "rejects": dict(self.rejects),
                "calls": dict(self.calls),
                "peak_calls": dict(self.peak_calls),
                "slots": {host: slots for host, slots in self._slots.items() if slots},
            }
