"""What a worker node counts for Prometheus, from what its streams report to the parent."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_OPEN_SECONDS = (0.1, 0.3, 1, 3, 10, 30, 60, 120)
"""A plug in the control domain takes seconds; the client waits 150 s for it."""

_RENEW_SECONDS = (0.0005, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10)
"""One round trip to Redis; two answers that do not come in time are 10 s."""

_BATCHES = (0, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)


class WorkerMetrics:
    """One node's counts, in a registry of their own."""

    def __init__(self, processes: int) -> None:
        self.registry = CollectorRegistry()
        prefix = "cbtfleet_worker_"

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(prefix + name, text, labels, registry=self.registry)

        def histogram(name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
            return Histogram(prefix + name, text, buckets=buckets, registry=self.registry)

        def gauge(name: str, text: str) -> Gauge:
            return Gauge(prefix + name, text, registry=self.registry)

        self._streams = counter("streams", "Streams that ended, by outcome", "outcome")
        self._opens = counter("opens", "Connections opened to hosts")
        self._open_seconds = histogram(
            "open_seconds", "From the claim of a grant to its open connection", _OPEN_SECONDS
        )
        self._batches = counter("batches", "Batches committed")
        self._batches_per_open = histogram(
            "batches_per_open", "Batches committed over one connection", _BATCHES
        )
        self._read = counter("read_bytes", "Bytes of committed batches, as read from hosts")
        self._stored = counter("stored_bytes", "Bytes of committed batches, as packs in the store")
        self._renew_seconds = histogram("renew_seconds", "Renewing one lease", _RENEW_SECONDS)
        self._busy = gauge("busy_processes", "Stream processes with a grant in hand")
        self._killed = counter("killed_processes", "Stream processes killed: silent for a lease, or stuck")
        gauge("processes", "Stream processes of this node, spare ones included").set(processes)

    def opened(self, seconds: float) -> None:
        self._opens.inc()
        self._open_seconds.observe(seconds)

    def batch(self, read_bytes: int, stored_bytes: int) -> None:
        self._batches.inc()
        self._read.inc(read_bytes)
        self._stored.inc(stored_bytes)

    def renewed(self, seconds: float) -> None:
        self._renew_seconds.observe(seconds)

    def ended(self, outcome: str, batches: int | None) -> None:
        self._streams.labels(outcome).inc()
        if batches is not None:
            self._batches_per_open.observe(batches)

    def killed(self) -> None:
        self._killed.inc()

    def busy(self, processes: int) -> None:
        self._busy.set(processes)
