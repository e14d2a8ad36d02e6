"""/metrics: what it serves, and a port that cannot be had."""

from __future__ import annotations

import logging
import urllib.request

import pytest

from tests.conftest import free_port
from workers.metrics_server import serve_metrics
from workers.node.metrics import WorkerMetrics


def test_it_serves_what_was_counted() -> None:
    metrics = WorkerMetrics(3)
    metrics.opened(0.2)
    metrics.batch(100, 40)
    metrics.ended("CLEAN", 1)
    metrics.ended("BUSY", None)
    server = serve_metrics(metrics.registry, "127.0.0.1", free_port())
    assert server is not None
    with urllib.request.urlopen(f"http://127.0.0.1:{server.port}/metrics") as answer:
        lines = answer.read().decode().splitlines()
    server.close()
    assert {
        'cbtfleet_worker_streams_total{outcome="CLEAN"} 1.0',
        'cbtfleet_worker_streams_total{outcome="BUSY"} 1.0',
        "cbtfleet_worker_batches_per_open_count 1.0",
        "cbtfleet_worker_read_bytes_total 100.0",
        "cbtfleet_worker_processes 3.0",
    } <= set(lines)


def test_port_0_serves_nothing() -> None:
    assert serve_metrics(WorkerMetrics(1).registry, "127.0.0.1", 0) is None


@pytest.mark.parametrize(("usual", "level"), [(True, logging.INFO), (False, logging.WARNING)])
def test_a_port_in_use_is_one_line(caplog: pytest.LogCaptureFixture, usual: bool, level: int) -> None:
    caplog.set_level(logging.INFO)
    registry = WorkerMetrics(1).registry
    server = serve_metrics(registry, "127.0.0.1", free_port())
    assert server is not None
    assert serve_metrics(registry, "127.0.0.1", server.port, usual_port=server.port if usual else 1) is None
    server.close()
    [record] = caplog.records
    assert (record.levelno, "cannot be listened on" in record.getMessage()) == (level, True)
