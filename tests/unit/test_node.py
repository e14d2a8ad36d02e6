"""A worker node's heartbeat: what the ledger knows of a node, whatever was before and whatever happens."""

from __future__ import annotations

from pathlib import Path

import pytest
import redis

from tests.until import until
from workers.fleet import Ledger, Timing
from workers.node.main import Heartbeat, spare_processes, without_secrets_of_others
from workers.settings import Settings

TIMING = Timing(renew_every=0.05)


def test_a_node_that_was_killed_while_it_drained_serves_again_under_the_same_name(redis_url: str) -> None:
    """As in a container that is restarted: same host name, same process id."""
    ledger = Ledger.from_url(redis_url, TIMING)
    ledger.node_alive("node", 4)
    ledger.node_drain("node")
    heartbeat = Heartbeat(ledger, "node", 4)
    heartbeat.start()
    until(lambda: [(node.name, node.draining) for node in ledger.nodes()] == [("node", False)])
    heartbeat.drain()
    assert [node.draining for node in ledger.nodes()] == [True]
    heartbeat.stop()
    assert ledger.nodes() == []
    ledger.close()


def test_a_worker_forgets_where_the_keys_of_others_are(tmp_path: Path) -> None:
    files = {
        f"{name}_file": tmp_path / name
        for name in ("public_key", "metadata_key", "private_key", "passphrase")
    }
    settings = Settings.model_validate({"repository": {"url": f"file://{tmp_path}", **files}})
    kept = without_secrets_of_others(settings).repository.model_dump(exclude_none=True)
    assert {name for name in kept if name.endswith("_file")} == {"public_key_file"}


@pytest.mark.parametrize(("concurrency", "spare"), [(1, 1), (8, 1), (16, 2), (64, 8)])
def test_a_node_has_spare_processes_for_while_some_wait_for_slow_hosts(concurrency: int, spare: int) -> None:
    assert spare_processes(concurrency) == spare


def test_the_heartbeat_outlives_a_redis_that_takes_no_writes(
    redis_url: str, redis_client: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    ledger = Ledger.from_url(redis_url, TIMING)
    heartbeat = Heartbeat(ledger, "node", 4)
    redis_client.config_set("min-replicas-to-write", 1)
    try:
        heartbeat.start()
        until(lambda: "replicas" in caplog.text)
    finally:
        redis_client.config_set("min-replicas-to-write", 0)
    until(lambda: [node.name for node in ledger.nodes()] == ["node"])
    heartbeat.stop()
    ledger.close()
