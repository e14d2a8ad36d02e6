"""A machine that seals wrongly stops being a worker node: real processes, one of them tests.unfit_machine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.worker_site import WorkerSite, children_of, is_alive
from workers.extents import BATCH_BLOCKS


@pytest.fixture
def site(tmp_path: Path) -> Iterator[WorkerSite]:
    site = WorkerSite(tmp_path, batches=3, configured="[worker]\ncheck_sealed = true\n")
    yield site
    site.close()


def test_a_node_whose_memory_fails_ends_costs_no_attempt_and_another_goes_on(site: WorkerSite) -> None:
    good_at_the_start = str(BATCH_BLOCKS + 700)  # in the middle of its first stream's second batch
    node = site.node(2, program=("tests.unfit_machine", good_at_the_start))
    children = children_of(node)
    run = site.submit()
    assert node.wait(60) == 4, site.log()
    last_line = site.log().splitlines()[-1]
    assert last_line.startswith('cbtfleet: this node has stopped itself: VM "db", disk ')
    assert last_line.endswith(
        "this machine must not write backups: test its memory and processor before it works again"
    )
    site.wait_until(lambda: not any(is_alive(child) for child in children), timeout=5)
    assert site.ledger.nodes() == []
    disk = site.disk(run)
    assert disk is not None
    assert (disk.state, disk.attempts) == ("streaming", 0)
    assert disk.done < 3

    site.node(1)
    site.wait_until(lambda: (disk := site.disk(run)) and disk.state == "complete")
    disk = site.disk(run)
    assert disk is not None
    assert (disk.attempts, disk.error) == (0, None)


def test_started_again_on_a_machine_that_always_fails_a_node_ends_before_it_takes_work(
    site: WorkerSite,
) -> None:
    node = site.start_node(1, ("tests.unfit_machine", "0"))
    assert node.wait(30) == 4
    assert "this machine must not write backups" in site.log().splitlines()[-1]
    assert site.ledger.nodes() == []
