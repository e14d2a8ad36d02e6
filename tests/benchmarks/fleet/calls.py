"""How long the ledger's calls take, seen by the caller in Python: encoding, round trip, script."""

from __future__ import annotations

from collections.abc import Iterator

from tests.benchmarks.fleet.estate import Estate, hold, submit
from tests.benchmarks.fleet.machine import founded_ledger, own_redis, ping, timed
from tests.benchmarks.fleet.table import Row, median_and_p99, percentile
from workers.fleet import Grant, Ledger, Limits, Outcome, Verdict

MEDIAN, P99 = 0.3e-3, 1e-3


def bench_commit(quick: bool) -> Iterator[Row]:
    estate = Estate(vms=20 if quick else 1000, hosts_per_pool=2 if quick else 16, batches=200, plans=1)
    with own_redis(durable=True) as server:
        for kind, url in (("Unix socket", server.unix_url), ("TCP", server.tcp_url)):
            with founded_ledger(url) as ledger:
                submit(ledger, "run", estate)
                grants = _fill(ledger)
                calm, over = _commits(ledger, grants, 4 if quick else 40)
                renews = [timed(ledger.renew, grants)[0] for _ in range(5 if quick else 100)]
            yardstick = f"PING {ping(url, 50 if quick else 2000)}"
            yield Row(
                f"commit + next batch, {kind}, {len(grants)} slots in use, {estate.vms * 3} disks",
                median_and_p99(calm),
                "0.3 ms / 1 ms",
                percentile(calm, 0.5) <= MEDIAN and percentile(calm, 0.99) <= P99,
                yardstick,
            )
            yield Row(f"the same when its turn is over and disks wait, {kind}", median_and_p99(over))
            yield Row(f"renew of {len(grants)} slots in one call, {kind}", median_and_p99(renews))


def _fill(ledger: Ledger) -> list[Grant]:
    """Every slot of every host held."""
    ledger.node_alive("node", 10_000)
    grants: list[Grant] = []
    while more := ledger.admit(32):
        grants += hold(ledger, more)
    return grants


def _commits(ledger: Ledger, grants: list[Grant], rounds: int) -> tuple[list[float], list[float]]:
    """Seconds of a commit within a stream's turn, and of each stream's first one when its turn is over."""
    held = {grant: ledger.take(grant) for grant in grants}
    turn = Limits().quantum_batches
    calm, over = [], []
    for number in range(1, turn):
        for grant in grants:
            batch = held[grant].batch
            assert held[grant].verdict is Verdict.CONTINUE
            assert batch is not None
            seconds, held[grant] = timed(ledger.commit, grant, batch, 1 << 25, 1 << 24)
            if number <= rounds:
                calm.append(seconds)
    for grant in grants:
        seconds, _ = timed(ledger.commit, grant, held[grant].batch, 1 << 25, 1 << 24)
        over.append(seconds)
    return calm, over


def bench_admit(quick: bool) -> Iterator[Row]:
    """What the pump pays each time it looks for work, with every disk of a large run waiting."""
    estate = Estate(vms=20 if quick else 1000, hosts_per_pool=2 if quick else 16, plans=1)
    calls = 3 if quick else 50
    with own_redis(durable=True) as server, founded_ledger(server.unix_url) as ledger:
        submit(ledger, "run", estate)
        ledger.node_alive("node", 10_000)
        giving, opening, held = [], [], 0
        while (answer := timed(ledger.admit, 32))[1]:
            giving.append(answer[0] / len(answer[1]))
            opening.append(timed(ledger.admit, 32)[0])
            held += len(hold(ledger, answer[1]))
        full = [timed(ledger.admit, 32)[0] for _ in range(calls)]
        ledger.set_host("pool-0", "an-idle-host", 16)
        useless = [timed(ledger.admit, 32)[0] for _ in range(calls)]
        waiting = f"{estate.vms * 3} disks wait"
        yield Row(
            f"admit, all hosts idle, {waiting}: each grant", median_and_p99(giving), note="32 in a call"
        )
        yield Row("admit, all hosts at their limit of opens", median_and_p99(opening))
        yield Row(f"admit, all {held} slots in use", median_and_p99(full))
        yield Row("admit, the same and an idle host that no disk sees", median_and_p99(useless))


def bench_stream(quick: bool) -> Iterator[Row]:
    """The calls of one stream's beginning and end, one stream after the other."""
    estate = Estate(vms=20 if quick else 1000, plans=1)
    samples: dict[str, list[float]] = {"admit of one grant": [], "claim": [], "opened": [], "release": []}
    with own_redis(durable=True) as server, founded_ledger(server.unix_url) as ledger:
        submit(ledger, "run", estate)
        ledger.node_alive("node", 8)
        for _ in range(5 if quick else 200):
            seconds, (grant,) = timed(ledger.admit, 1)
            samples["admit of one grant"].append(seconds)
            samples["claim"].append(timed(ledger.claim, grant, "node/1")[0])
            samples["opened"].append(timed(ledger.opened, grant)[0])
            samples["release"].append(timed(ledger.release, grant, Outcome.CLEAN)[0])
    for name, seconds_each in samples.items():
        yield Row(name, median_and_p99(seconds_each), note=f"{estate.vms * 3} disks wait")
