"""Worker nodes that are killed, stopped, asked to stop, and whose Redis goes away: all real processes.

A `time_scale` of 0.1 makes the lease 3 s, a renewal every 0.5 s and the barrier 6 s.
"""

from __future__ import annotations

import os
import re
import signal
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.acceptance.worker_site import WorkerSite, children_of, is_alive, process_of
from tests.until import PATIENCE

Maker = Callable[..., WorkerSite]


@pytest.fixture
def make_site(tmp_path: Path) -> Iterator[Maker]:
    with ExitStack() as stack:

        def make(time_scale: float = 1.0, batches: int = 8) -> WorkerSite:
            site = WorkerSite(tmp_path, time_scale=time_scale, batches=batches)
            stack.callback(site.close)
            return site

        yield make


def begin(site: WorkerSite, faults: dict[str, object] | None = None) -> str:
    """A run with a stream in the middle of its work, after a first batch; reads take a moment each."""
    site.pool.add_fault(**(faults or {"nbd": "slow", "seconds": 0.02, "count": -1}))
    run = site.submit()
    site.wait_until(lambda: site.slots("HELD") and site.done(run) >= 1)
    return run


def complete(site: WorkerSite, run: str, timeout: float = PATIENCE) -> None:
    site.pool.clear_faults()
    site.wait_until(lambda: (disk := site.disk(run)) and disk.state == "complete", timeout)


def test_a_killed_streams_batches_go_on_long_before_its_lease_ends(make_site: Maker) -> None:
    site = make_site()
    site.node(1)
    run = begin(site)
    [slot] = site.slots("HELD")
    before = site.done(run)
    os.kill(process_of(slot), signal.SIGKILL)
    lease = site.ledger.timing.lease
    site.wait_until(lambda: site.done(run) > before, timeout=lease / 2)
    complete(site, run)
    site.wait_until(lambda: not site.slots("HELD"))
    text = urllib.request.urlopen(f"http://127.0.0.1:{site.metrics_port}/metrics").read().decode()
    counted = dict(re.findall(r"^(cbtfleet_worker_\w+(?:{.*})?) (\S+)$", text, re.MULTILINE))
    assert float(counted['cbtfleet_worker_streams_total{outcome="LOST"}']) == 1
    assert float(counted["cbtfleet_worker_opens_total"]) >= 2
    assert float(counted["cbtfleet_worker_processes"]) == 2
    assert float(counted["cbtfleet_worker_read_bytes_total"]) > 32 << 20
    line = next(line for line in site.log_lines() if "its batches are given back" in line["message"])
    assert (line["run"], line["host"], line["fence"]) == (run, site.ledger.hosts()[0].host, slot.fence)
    line = next(line for line in site.log_lines() if "stream on host" in line["message"])
    assert (line["run"], line["disk"]) == (run, slot.disk)
    assert {"vm", "host", "slot", "fence", "task"} <= line.keys()


def test_a_stopped_stream_process_is_killed_when_its_lease_is_over(make_site: Maker) -> None:
    site = make_site(0.1)
    site.node(1)
    run = begin(site)
    [slot] = site.slots("HELD")
    os.kill(process_of(slot), signal.SIGSTOP)
    site.wait_until(lambda: not is_alive(process_of(slot)))
    complete(site, run)
    assert "was silent for longer than its lease; it is killed" in site.log()


def test_stream_processes_end_with_their_parent(make_site: Maker) -> None:
    site = make_site()
    node = site.node(2)
    begin(site)
    children = children_of(node)
    assert len(children) == 3
    os.kill(node.pid, signal.SIGKILL)
    node.wait()
    site.wait_until(lambda: not any(is_alive(child) for child in children))


def test_a_node_that_was_stopped_and_goes_on_works_again(make_site: Maker) -> None:
    site = make_site(0.1)
    node = site.node(1)
    run = begin(site)
    os.killpg(node.pid, signal.SIGSTOP)
    site.wait_until(lambda: not site.slots("HELD"))
    site.wait_until(lambda: not site.ledger.nodes())
    os.killpg(node.pid, signal.SIGCONT)
    complete(site, run)
    assert "it is killed" not in site.log()
    assert node.poll() is None


def test_asked_to_stop_a_node_does_not_wait_for_a_silent_host(make_site: Maker) -> None:
    site = make_site(0.2)
    node = site.node(1)
    run = begin(site, {"nbd": "stall", "bytes": 40 << 20, "count": -1})
    before = site.done(run)
    node.send_signal(signal.SIGTERM)
    assert node.wait(PATIENCE) == 0
    disk = site.disk(run)
    assert disk is not None
    assert (disk.state, disk.done, disk.streams) == ("streaming", before, 0)
    assert not site.slots("HELD")
    site.node(1)
    complete(site, run)


@pytest.mark.parametrize("fault", [{"xapi": "VDI.get_nbd_info", "delay": 6.0}, {"nbd": "stall_at_export"}])
def test_asked_to_stop_a_node_does_not_wait_for_slow_hosts(
    make_site: Maker, fault: dict[str, object]
) -> None:
    site = make_site(0.1, batches=1)
    node = site.node(1)
    site.pool.add_fault(**fault, count=-1)
    run = site.submit()
    site.wait_until(lambda: site.slots("OPENING"))
    node.send_signal(signal.SIGTERM)
    assert node.wait(PATIENCE) == 0
    assert ("could not stop its stream; it is killed" in site.log()) is ("xapi" in fault)
    disk = site.disk(run)
    assert disk is not None
    assert (disk.state, disk.streams) == ("streaming", 0)


def test_a_cancel_is_heard_while_the_host_is_silent(make_site: Maker) -> None:
    site = make_site(0.2)
    site.node(1)
    run = begin(site, {"nbd": "stall", "bytes": 40 << 20, "count": -1})
    site.ledger.cancel(run)
    site.wait_until(lambda: not site.slots("HELD"), timeout=5)
    assert "was silent" not in site.log()


def test_a_node_goes_on_by_itself_whatever_redis_does(make_site: Maker) -> None:
    """Its clients killed, stalled, emptied, restarted; the last two begin a barrier of 3 s each."""
    site = make_site(0.05, batches=3)
    node = site.node(1)
    troubles: list[Callable[[], object]] = [
        lambda: site.redis.client_kill_filter(_type="normal"),
        lambda: site.redis.client_pause(2000),
        lambda: site.redis.flushall(),
        site.restart_redis,
    ]
    for make_trouble in troubles:
        run = begin(site)
        make_trouble()
        if site.ledger.runs():
            complete(site, run)
    complete(site, site.submit())
    assert node.poll() is None
