"""The ledger: the live state of all runs, in Redis, behind one class."""

from __future__ import annotations

import re

from redis.backoff import ExponentialBackoff
from redis.retry import Retry

from workers.fleet.errors import LedgerUnsuitable
from workers.fleet.figures import Figures
from workers.fleet.grants import Grants
from workers.fleet.host_counts import HostCounts
from workers.fleet.progress import Progress
from workers.fleet.runs import Runs
from workers.fleet.scripts import RedisClient, Scripts, address, translated
from workers.fleet.steps import Steps
from workers.fleet.streams import Streams
from workers.fleet.timing import Limits, Timing
from workers.redis_address import RedisAddress
from workers.settings import Settings

OLDEST_REDIS = (6, 2)
"""What Celery 5.7 needs; also the oldest whose Lua scripts we test."""

SOCKET_TIMEOUT = 5.0
"""Seconds for one answer. A call is sent twice at most, so it ends within half of `Timing.cut_after`."""


class Ledger:
    """All calls of the fleet. Each is one atomic Lua script on Redis's own clock, or a plain read.

    Its parts share the Redis, and their methods are the ledger's: `Runs`, `Progress`, `Steps`,
    `Grants`, `Streams`, `HostCounts` and `Figures`.
    Safe to share among threads and to inherit through a fork. Every call may raise LedgerUnreachable (Redis
    does not answer), UnknownToLedger (no such run, VM or disk) or LedgerError (the call breaks a rule).
    """

    def __init__(self, redis: RedisClient, timing: Timing = Timing(), limits: Limits = Limits()) -> None:  # noqa: B008
        scripts = Scripts(redis, timing, limits)
        self._redis = redis
        self.timing = timing
        self.limits = limits

        runs = Runs(scripts)
        self.create_run = runs.create_run
        self.add_vms = runs.add_vms
        self.start_vm = runs.start_vm
        self.finish_vm = runs.finish_vm
        self.end_run = runs.end_run
        self.cancel = runs.cancel
        self.stop = runs.stop
        self.is_cancelled = runs.is_cancelled
        self.runs = runs.runs
        self.run_states = runs.run_states
        self.run_state = runs.run_state
        self.run_facts = runs.run_facts
        self.set_run_facts = runs.set_run_facts
        self.run_result = runs.run_result
        self.vm_facts = runs.vm_facts
        self.vm_state = runs.vm_state
        self.set_vm_facts = runs.set_vm_facts
        self.plan = runs.plan

        progress = Progress(scripts)
        self.vm_disks = progress.vm_disks
        self.committed_packs = progress.committed_packs
        self.disk_facts = progress.disk_facts
        self.progress = progress.progress

        steps = Steps(scripts)
        self.due_steps = steps.due_steps
        self.claim_step = steps.claim_step
        self.holding = steps.holding
        self.renew_step = steps.renew_step
        self.finish_step = steps.finish_step
        self.step_attempts = steps.step_attempts
        self.put_off_step = steps.put_off_step
        self.take_permit = steps.take_permit

        grants = Grants(scripts)
        self.set_host = grants.set_host
        self.set_hosts = grants.set_hosts
        self.hosts = grants.hosts
        self.slots = grants.slots
        self.free_slot = grants.free_slot
        self.node_alive = grants.node_alive
        self.node_drain = grants.node_drain
        self.node_gone = grants.node_gone
        self.nodes = grants.nodes
        self.admit = grants.admit
        self.sweep = grants.sweep
        self.wait_for_work = grants.wait_for_work
        self.barrier_left = grants.barrier_left
        self.found = grants.found

        host_counts = HostCounts(scripts)
        self.hosts_to_count = host_counts.hosts_to_count
        self.counted = host_counts.counted
        self.uncountable = host_counts.uncountable

        figures = Figures(scripts)
        self.counters = figures.counters
        self.waiting = figures.waiting

        streams = Streams(scripts)
        self.claim = streams.claim
        self.opened = streams.opened
        self.take = streams.take
        self.commit = streams.commit
        self.renew = streams.renew
        self.verdicts = streams.verdicts
        self.release = streams.release

    @classmethod
    def at(cls, address: RedisAddress, timing: Timing = Timing(), limits: Limits = Limits()) -> Ledger:  # noqa: B008
        """Connects. Raises LedgerUnreachable when nothing answers or another than ours, and LedgerUnsuitable
        for a bad address, a Redis older than 6.2, or Redis Cluster (the scripts touch many keys at once)."""
        try:
            client = address.client(
                socket_timeout=SOCKET_TIMEOUT,
                socket_connect_timeout=SOCKET_TIMEOUT,
                retry=Retry(ExponentialBackoff(cap=0.5, base=0.1), retries=1),
            )
        except ValueError as error:
            raise LedgerUnsuitable(
                "redis.url is not an address of a Redis: write redis://host:port/db, rediss://… or unix:///path"
            ) from error
        try:
            _check_suitable(client)
        except BaseException:
            client.close()
            raise
        return cls(client, timing, limits)

    @classmethod
    def from_url(cls, url: str, timing: Timing = Timing(), limits: Limits = Limits()) -> Ledger:  # noqa: B008
        """As `at`, for an address that is all in its url."""
        return cls.at(RedisAddress(url), timing, limits)

    @classmethod
    def open(cls, settings: Settings) -> Ledger:
        """The ledger of a configuration: its Redis, its durations. Raises what `at` raises, and
        ConfigurationError when a file of the address cannot be read."""
        return cls.at(RedisAddress.of(settings), Timing().scaled(settings.fleet.time_scale))

    def close(self) -> None:
        """Closes the connections to Redis."""
        self._redis.close()


def _check_suitable(client: RedisClient) -> None:
    with translated(client):
        server: dict[str, object] = client.info("server")
    version = str(server.get("redis_version", "unknown"))
    if tuple(int(part) for part in re.findall(r"\d+", version)[:2]) < OLDEST_REDIS:
        raise LedgerUnsuitable(
            f"Redis at {address(client)} is version {version}; cbtfleet needs 6.2 or newer"
        )
    if server.get("redis_mode") == "cluster":
        raise LedgerUnsuitable(
            f"Redis at {address(client)} is a Redis Cluster; cbtfleet needs a single master"
        )
