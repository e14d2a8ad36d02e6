"""What Prometheus reads at the scheduler, over HTTP, from a real ledger."""

from __future__ import annotations

import socket
import time
import urllib.request
from collections.abc import Iterator

import pytest
import redis
from prometheus_client.parser import text_string_to_metric_families

from scheduler.background_loop import BackgroundLoop
from scheduler.metrics import SchedulerMetrics
from scheduler.pump import Pump
from tests.conftest import free_port
from tests.fleet_clock import disk_work
from tests.until import until
from workers.broker import celery_app
from workers.errors import CbtfleetError
from workers.fleet import Ledger
from workers.metrics_server import serve_metrics
from workers.redis_address import RedisAddress


@pytest.fixture
def ledger(redis_url: str) -> Iterator[Ledger]:
    ledger = Ledger.from_url(redis_url)
    ledger.found()
    yield ledger
    ledger.close()


ORDER = ("pool", "host", "state", "kind", "step", "loop", "le")
Samples = dict[tuple[str, tuple[str, ...]], float]


def scrape(port: int) -> Samples:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    return {
        (sample.name, tuple(sample.labels[name] for name in ORDER if name in sample.labels)): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_the_ledgers_figures_and_the_pumps_own(ledger: Ledger, redis_url: str) -> None:
    metrics = SchedulerMetrics(ledger)
    port = free_port()
    served = serve_metrics(metrics.registry, "127.0.0.1", port)
    assert served is not None
    try:
        empty = scrape(port)
        assert empty["cbtfleet_ledger_up", ()] == 1
        assert empty["cbtfleet_grants_total", ()] == 0
        assert empty["cbtfleet_runs", ("running",)] == 0
        assert empty["cbtfleet_barrier_left_seconds", ()] == 0

        ledger.create_run("run", b"")
        ledger.add_vms("run", {"vm": b""})
        ledger.set_host("lab", "host", 2)
        works = [disk_work(f"disk{n}", 1, hosts=("host",)) for n in range(2)]
        ledger.start_vm("run", "vm", works)
        ledger.node_alive("node", 1)
        app = celery_app(RedisAddress(redis_url))
        Pump(ledger, app, metrics.pump_round_done).round()
        app.close()
        metrics.step_done("plan-vm", 2.0)
        seen = scrape(port)
        assert seen["cbtfleet_grants_total", ()] == 1
        assert seen["cbtfleet_slots", ("lab", "host", "GRANTED")] == 1
        assert seen["cbtfleet_slots", ("lab", "host", "FREE")] == 1
        assert seen["cbtfleet_stuck_slots", ("lab", "host")] == 0
        assert seen["cbtfleet_host_cap", ("lab", "host")] == 2
        assert seen["cbtfleet_host_unaccounted", ("lab", "host")] == 0
        assert seen["cbtfleet_runs", ("running",)] == 1
        assert seen["cbtfleet_nodes", ()] == 1
        assert seen["cbtfleet_waiting_disks", ()] >= 1
        assert seen["cbtfleet_published_total", ("grant",)] == 1
        assert seen["cbtfleet_published_total", ("step",)] >= 1
        assert seen["cbtfleet_pump_round_seconds_count", ()] == 1
        assert seen["cbtfleet_step_seconds_sum", ("plan-vm",)] == 2.0
    finally:
        served.close()


class Looking(BackgroundLoop):
    """Has a part of its own, as the reconciler has one a pool; fails while `broken`."""

    def __init__(self, name: str, *parts: BackgroundLoop) -> None:
        super().__init__(name, f"looking for {name}", pause=0.01, back_off=(0.01, 0.01))
        self._parts = parts
        self.broken = False

    def round(self) -> None:
        if self.broken:
            raise CbtfleetError("the disk is full")

    def parts(self) -> tuple[BackgroundLoop, ...]:
        return self._parts


def test_when_each_loop_last_worked_and_how_often_it_failed(ledger: Ledger) -> None:
    part = Looking("orphans/lab")
    loop = Looking("orphans", part)
    metrics = SchedulerMetrics(ledger)
    metrics.show_loops((loop,))
    port = free_port()
    served = serve_metrics(metrics.registry, "127.0.0.1", port)
    assert served is not None

    def seen(name: str) -> tuple[float, float]:
        samples = scrape(port)
        return (
            samples["cbtfleet_loop_last_success_timestamp_seconds", (name,)],
            samples["cbtfleet_loop_failures_total", (name,)],
        )

    try:
        assert (seen("orphans"), seen("orphans/lab")) == ((0, 0), (0, 0))
        began = time.time()
        loop.start()
        until(lambda: seen("orphans")[0] >= began)
        assert seen("orphans/lab") == (0, 0)
        loop.broken = True
        until(lambda: seen("orphans")[1] >= 2)
        stood = seen("orphans")
        until(lambda: seen("orphans")[1] > stood[1] + 1)
        assert seen("orphans")[0] == stood[0], "a failed round is no success"
        loop.broken = False
        until(lambda: seen("orphans")[0] > stood[0])
    finally:
        loop.stop()
        served.close()


def test_a_redis_that_is_away_is_said_and_nothing_else(ledger: Ledger, redis_client: redis.Redis) -> None:
    away = Ledger(redis.Redis(port=1, socket_connect_timeout=1))
    families = {family.name for family in SchedulerMetrics(away).registry.collect()}
    assert "cbtfleet_ledger_up" in families
    assert "cbtfleet_slots" not in families
    away.close()


def test_a_port_that_is_taken_costs_the_metrics_alone(
    ledger: Ledger, caplog: pytest.LogCaptureFixture
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        caplog.set_level("INFO")
        registry = SchedulerMetrics(ledger).registry
        assert serve_metrics(registry, "127.0.0.1", port, usual_port=port) is None
        [record] = caplog.records
        assert (record.levelname, f"127.0.0.1:{port}" in record.getMessage()) == ("INFO", True)
        assert serve_metrics(registry, "127.0.0.1", 0) is None
