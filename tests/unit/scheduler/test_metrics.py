"""What Prometheus reads at the scheduler, over HTTP, from a real ledger."""

from __future__ import annotations

import socket
import urllib.request
from collections.abc import Iterator

import pytest
import redis
from prometheus_client.parser import text_string_to_metric_families

from scheduler.metrics import SchedulerMetrics
from scheduler.service import Pump
from tests.conftest import free_port
from workers.broker import celery_app
from workers.fleet import DiskWork, Ledger
from workers.metrics_server import serve_metrics


@pytest.fixture
def ledger(redis_url: str) -> Iterator[Ledger]:
    ledger = Ledger.from_url(redis_url)
    ledger.found()
    yield ledger
    ledger.close()


ORDER = ("pool", "host", "state", "kind", "step", "le")
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

        ledger.create_run("run", {})
        ledger.add_vms("run", {"vm": {}})
        ledger.set_host("lab", "host", 2)
        works = [DiskWork("run", "vm", f"disk{n}", "lab", f"s{n}", 1 << 20, 1, ("host",)) for n in range(2)]
        ledger.start_vm("run", "vm", works)
        ledger.node_alive("node", 1)
        app = celery_app(redis_url)
        Pump(ledger, app, metrics.turned).turn()
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
        assert seen["cbtfleet_pump_turn_seconds_count", ()] == 1
        assert seen["cbtfleet_step_seconds_sum", ("plan-vm",)] == 2.0
    finally:
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
