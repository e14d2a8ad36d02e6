"""What Prometheus reads at the scheduler: the ledger's figures and the loops', read when they are asked for,
and the pump's and the steps'.

Every scheduler shows the same ledger, so one of them is enough to scrape for what begins with the ledger's
words; the figures of loops, pump and steps are this process's own.
"""

from __future__ import annotations

import logging
from collections import Counter as Tally
from collections.abc import Iterable, Sequence

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from scheduler.background_loop import BackgroundLoop
from workers.errors import CbtfleetError
from workers.fleet import Ledger

log = logging.getLogger(__name__)

EVENTS = (
    "grants",
    "claims",
    "opens",
    "batches",
    "rejects",
    "failed",
    "lost",
    "yielded",
    "quarantined",
    "fenced",
    "unclaimed",
    "barriers",
    "confirmed",
)
"""Counters of the ledger that are shown as 0 before they happen for the first time: an alert on a rate needs
them to be there. Whatever else the ledger counts is shown, too."""

SLOT_STATES = ("FREE", "GRANTED", "OPENING", "HELD", "QUARANTINE")
RUN_STATES = ("planning", "running", "ended")

_ROUND_SECONDS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10)
_STEP_SECONDS = (0.1, 0.3, 1, 3, 10, 30, 60, 120, 300, 900)


class LedgerCollector(Collector):
    """Asks the ledger at each scrape. When Redis does not answer, `cbtfleet_ledger_up` is 0 and alone."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def collect(self) -> Iterable[Metric]:
        try:
            found = [*self._events(), *self._hosts(), *self._waiting(), *self._runs(), *self._nodes()]
        except CbtfleetError as error:
            log.debug("metrics: %s", error)
            found = []
        yield GaugeMetricFamily("cbtfleet_ledger_up", "Whether Redis answered", float(bool(found)))
        yield from found

    def describe(self) -> Iterable[Metric]:
        """Nothing: registering must not ask Redis."""
        return []

    def _events(self) -> Iterable[Metric]:
        counters = {**dict.fromkeys(EVENTS, 0), **self._ledger.counters()}
        for name, count in sorted(counters.items()):
            what = f"How often since Redis was empty: {name.replace('_', ' ')} (docs/fleet.md)"
            yield CounterMetricFamily(f"cbtfleet_{name}", what, count)

    def _hosts(self) -> Iterable[Metric]:
        where = ("pool", "host")
        gauges = {
            "cap": "Slots of the host",
            "effective_cap": "Slots that may be in use now",
            "unaccounted": "Connections of ours that no slot explains, at the last count",
            "others": "Connections of others, at the last count",
            "closed_seconds": "Seconds until an open is tried again on a host where they fail",
            "counted_seconds": "Seconds since the last count",
        }
        families = {
            name: GaugeMetricFamily(f"cbtfleet_host_{name}", text, labels=where)
            for name, text in gauges.items()
        }
        slots = GaugeMetricFamily("cbtfleet_slots", "Slots by state", labels=(*where, "state"))
        stuck = GaugeMetricFamily(
            "cbtfleet_stuck_slots", "Slots that rest because the host still has their disk", labels=where
        )
        for host in self._ledger.hosts():
            place = (host.pool, host.host)
            rows = self._ledger.slots(*place)
            states: Tally[str] = Tally(slot.state for slot in rows)
            for state in SLOT_STATES:
                slots.add_metric((*place, state), states.get(state, 0))
            stuck.add_metric(place, sum(slot.stuck for slot in rows))
            families["cap"].add_metric(place, host.cap)
            families["effective_cap"].add_metric(place, host.effective_cap)
            families["unaccounted"].add_metric(place, host.unaccounted)
            families["others"].add_metric(place, host.others)
            families["closed_seconds"].add_metric(place, host.circuit_left)
            if host.counted_ago is not None:
                families["counted_seconds"].add_metric(place, host.counted_ago)
        return [slots, stuck, *families.values()]

    def _waiting(self) -> Iterable[Metric]:
        waiting = self._ledger.waiting()
        yield GaugeMetricFamily("cbtfleet_waiting_disks", "Disks without a stream", waiting.disks)
        yield GaugeMetricFamily(
            "cbtfleet_oldest_waiting_seconds", "How long the longest of them waits", waiting.oldest
        )
        yield GaugeMetricFamily(
            "cbtfleet_barrier_left_seconds",
            "Seconds in which nothing is granted, as Redis may have forgotten something",
            self._ledger.barrier_left(),
        )

    def _runs(self) -> Iterable[Metric]:
        family = GaugeMetricFamily("cbtfleet_runs", "Runs that the ledger knows", labels=("state",))
        states: Tally[str] = Tally(self._ledger.run_states().values())
        for state in RUN_STATES:
            family.add_metric((state,), states.get(state, 0))
        yield family

    def _nodes(self) -> Iterable[Metric]:
        nodes = self._ledger.nodes()
        gauges = {
            "nodes": ("Live worker nodes", len(nodes)),
            "draining_nodes": ("Worker nodes that take no more work", sum(node.draining for node in nodes)),
            "processes": ("Streams that the live nodes can run", sum(node.processes for node in nodes)),
            "busy_processes": ("Streams that they run", sum(node.busy for node in nodes)),
        }
        for name, (text, value) in gauges.items():
            yield GaugeMetricFamily(f"cbtfleet_{name}", text, value)


class LoopCollector(Collector):
    """Asks the background loops at each scrape: they know nothing of metrics."""

    def __init__(self, loops: Sequence[BackgroundLoop]) -> None:
        self._loops = loops

    def collect(self) -> Iterable[Metric]:
        successes = GaugeMetricFamily(
            "cbtfleet_loop_last_success_timestamp_seconds",
            "When a round of this background loop last ended with nothing failing; 0: never",
            labels=("loop",),
        )
        failures = CounterMetricFamily(
            "cbtfleet_loop_failures", "What failed in this background loop, each try", labels=("loop",)
        )
        for loop in self._loops:
            for each in (loop, *loop.parts()):
                successes.add_metric((each.name,), each.last_success)
                failures.add_metric((each.name,), each.failures)
        yield successes
        yield failures


class SchedulerMetrics:
    """This scheduler's own counts, and the ledger's figures, in one registry."""

    def __init__(self, ledger: Ledger) -> None:
        self.registry = CollectorRegistry()
        self.registry.register(LedgerCollector(ledger))
        self._round_seconds = Histogram(
            "cbtfleet_pump_round_seconds",
            "One round of the pump: sweep, publish, admit",
            buckets=_ROUND_SECONDS,
            registry=self.registry,
        )
        self._published = Counter(
            "cbtfleet_published",
            "Messages put on the queue, again ones included",
            ("kind",),
            registry=self.registry,
        )
        self._step_seconds = Histogram(
            "cbtfleet_step_seconds",
            "One try at a control step",
            ("step",),
            buckets=_STEP_SECONDS,
            registry=self.registry,
        )
        for kind in ("step", "grant"):
            self._published.labels(kind)

    def show_loops(self, loops: Sequence[BackgroundLoop]) -> None:
        self.registry.register(LoopCollector(loops))

    def pump_round_done(self, seconds: float, steps: int, grants: int) -> None:
        self._round_seconds.observe(seconds)
        self._published.labels("step").inc(steps)
        self._published.labels("grant").inc(grants)

    def step_done(self, step: str, seconds: float) -> None:
        self._step_seconds.labels(step).observe(seconds)
