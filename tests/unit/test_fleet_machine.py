"""Hypothesis drives the real Lua on a real Redis with injected time, and a model of the outside world judges.

The model's worker processes keep their side of the bargain: each cuts its connection when it is told to, and
`cut_after` its last answered renewal. The model's hosts (`tests/fleet_hosts.py`) free a closed connection
late. What must never happen is then seen from outside: more connections on a host than its cap, a batch lost
or counted twice.

Where hosts are counted, they may free a connection as late as they like, peers vanish and leave theirs behind
for good, and holders are paused for longer than any lease and go on. One of these alone may be too much for
a host: it was paused after it had claimed its grant and opens its connection when it is long forgotten.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from pathlib import Path

import pytest
import redis
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.fleet_clock import Clock, disk_work, lua_with_injected_time
from tests.fleet_hosts import Connection, Hosts, Reconciler
from tests.fleet_invariants import Slots, check_batches, check_books_on_slots, check_vms, read_slots
from workers.fleet import (
    Grant,
    Ledger,
    Outcome,
    RunProgress,
    Step,
    Timing,
    Verdict,
    call_number,
    scripts,
)

TIMING = Timing()
CAPS = {"h1": 1, "h2": 2}
NODES = {"n1": 4, "n2": 3}
LATE = [0.0, 4.0, 40.0, float("inf")]
"""Seconds until a host that is counted has let go of a connection that ended; a vanished peer's stays."""


class FleetMachine(RuleBasedStateMachine):
    client: redis.Redis
    forgets = False
    """Also put Redis back to earlier moments, and empty it."""
    confirm = False
    """The hosts are counted."""

    def __init__(self) -> None:
        super().__init__()
        self.client.flushall()
        self.clock = Clock(self.client)
        self.ledger = Ledger(self.client)
        self.ledger.found()
        self.messages: list[Grant] = []
        self.connections: list[Connection] = []
        self.hosts = Hosts(CAPS)
        self.counts: list[Reconciler] = []
        self.fences: dict[tuple[str, int], int] = {}
        self.committed: dict[str, set[int]] = defaultdict(set)
        self.finished: Counter[str] = Counter()
        self.snapshot: dict[bytes, bytes] | None = None
        self.begin()

    def begin(self) -> None:
        self.vms = 0
        self.quiet = 0
        for host, cap in CAPS.items():
            self.ledger.set_host("lab", host, cap, confirm=self.confirm)
        self.ledger.create_run("run", b"")
        self.plan_vm([(12, ("h1", "h2")), (9, ("h2", "h1")), (20, ("h1",)), (4, ("h2",)), (16, ("h1", "h2"))])

    # -- the control plane

    @precondition(lambda self: self.vms < 3)
    @rule(
        disks=st.lists(
            st.tuples(st.integers(0, 20), st.sampled_from([("h1", "h2"), ("h2",), ("h1",)])), max_size=4
        )
    )
    def plan_vm(self, disks: list[tuple[int, tuple[str, ...]]]) -> None:
        vm = f"vm{self.vms}"
        self.vms += 1
        self.ledger.add_vms("run", {vm: b""})
        work = [
            disk_work(f"{vm}d{i}", batches, vm=vm, hosts=hosts) for i, (batches, hosts) in enumerate(disks)
        ]
        self.ledger.start_vm("run", vm, work)
        self.ledger.start_vm("run", vm, work)

    def admit(self) -> None:
        for node, processes in NODES.items():
            self.ledger.node_alive(node, processes)
        for grant in self.ledger.admit():
            place = (grant.host, grant.slot)
            assert grant.fence > self.fences.get(place, 0)
            self.fences[place] = grant.fence
            self.messages.append(grant)

    def sweep(self) -> None:
        self.ledger.sweep()

    @rule()
    def work_off_steps(self) -> None:
        for step in self.ledger.due_steps():
            fence = self.ledger.claim_step(step, "scheduler")
            if fence is None:
                continue
            if step.name == "finish-vm":
                self.ledger.finish_vm("run", step.subject)
                self.finished[step.subject] += 1
            assert self.ledger.finish_step(step, fence)

    @precondition(lambda self: self.quiet > 24 and self.connections)
    @rule()
    def stop(self) -> None:
        self.quiet = 0
        self.ledger.stop("run", "the window is over")

    @precondition(lambda self: self.quiet > 16 and self.connections)
    @rule()
    def cancel(self) -> None:
        self.quiet = 0
        self.ledger.cancel("run")

    # -- time

    @rule(seconds=st.sampled_from([1, 6, 16, 31, 31, 61]))
    def wait(self, seconds: float) -> None:
        self.clock.advance(seconds)
        for connection in self.awake():
            cut = connection.heard + TIMING.cut_after
            if self.clock.now >= cut:
                self.close(connection, at=cut)

    @rule(seconds=st.sampled_from([5, 20, 65]))
    def live(self, seconds: float) -> None:
        """Time passes while every node renews and reports, as it should."""
        for _ in range(round(seconds / TIMING.renew_every)):
            self.wait(TIMING.renew_every)
            self.renew(which=(1 << 30) - 1)
            self.sweep()
            self.count_hosts()

    # -- worker processes

    @precondition(lambda self: self.messages)
    @rule(which=st.integers(0, 1 << 16), node=st.sampled_from(sorted(NODES)))
    def deliver(self, which: int, node: str) -> None:
        """Any message, also late and for the second time."""
        grant = self.messages[-1 - which % len(self.messages)]
        owner = f"{node}/{len(self.messages)}"
        if self.ledger.claim(grant, owner) is not None:
            self.connections.append(Connection(grant, owner, self.clock.now))

    @rule()
    def grant_what_can_be_granted(self) -> None:
        self.sweep()
        self.count_hosts()
        self.admit()

    @rule(node=st.sampled_from(sorted(NODES)))
    def start_what_can_be_started(self, node: str) -> None:
        self.sweep()
        self.count_hosts()
        known = len(self.messages)
        self.admit()
        for i in range(len(self.messages) - known):
            self.deliver(i, node)
        for connection in self.awake():
            if not connection.batches:
                self.open_and_take(self.awake().index(connection))

    @precondition(lambda self: self.awake())
    @rule(which=st.integers(0, 99))
    def connect(self, which: int) -> None:
        self.connect_one(self.awake()[which % len(self.awake())])

    def connect_one(self, connection: Connection) -> None:
        if connection.plugged:
            return
        if self.hosts.has_room(connection.grant.host, self.connections):
            connection.plugged = True
            return
        assert connection.late or self.hosts.has_late(connection.grant.host, self.connections)
        self.connections.remove(connection)
        self.ledger.release(connection.grant, Outcome.BUSY, "rejected", connection.owner)

    @precondition(lambda self: self.awake())
    @rule(which=st.integers(0, 99))
    def open_and_take(self, which: int) -> None:
        connection = self.awake()[which % len(self.awake())]
        self.connect_one(connection)
        if connection not in self.connections:
            return
        if not self.ledger.opened(connection.grant, connection.owner):
            self.close(connection)
            return
        number = call_number()
        following = self.ledger.take(connection.grant, connection.owner, number)
        connection.takes.append(number)
        self.obey(connection, following.verdict, following.batch)

    @precondition(lambda self: any(connection.takes for connection in self.awake()))
    @rule(which=st.integers(0, 99), back=st.integers(0, 3), commit=st.booleans())
    def send_again(self, which: int, back: int, commit: bool) -> None:
        """A call of a stream comes through once more, the last or an earlier one: nobody hears the answer."""
        busy = [connection for connection in self.awake() if connection.takes]
        connection = busy[which % len(busy)]
        if not commit:
            number = connection.takes[-1 - back % len(connection.takes)]
            self.ledger.take(connection.grant, connection.owner, number)
        elif connection.commits:
            batch = connection.commits[-1 - back % len(connection.commits)]
            self.ledger.commit(connection.grant, batch, 1, 2, connection.owner)

    @precondition(lambda self: any(connection.batches for connection in self.awake()))
    @rule(which=st.integers(0, 99), commits=st.integers(1, 8), again=st.booleans())
    def commit(self, which: int, commits: int, again: bool) -> None:
        busy = [connection for connection in self.awake() if connection.batches]
        connection = busy[which % len(busy)]
        grant = connection.grant
        for _ in range(commits):
            if connection not in self.connections or not connection.batches:
                return
            batch = min(connection.batches)
            connection.batches.discard(batch)
            streaming = any(
                disk.disk == grant.disk and disk.state == "streaming" for disk in self.progress().disks
            )
            following = self.ledger.commit(grant, batch, 1, 2, connection.owner)
            if again:
                assert self.ledger.commit(grant, batch, 1, 2, connection.owner) == following
            if following.verdict is not Verdict.FENCE and streaming:
                self.committed[grant.disk].add(batch)
            connection.commits.append(batch)
            self.obey(connection, following.verdict, following.batch)

    def obey(self, connection: Connection, verdict: Verdict, batch: int | None) -> None:
        if verdict is Verdict.FENCE:
            self.close(connection)
            return
        connection.heard = self.clock.now
        if batch is not None:
            assert verdict is Verdict.CONTINUE
            connection.batches.add(batch)

    @precondition(lambda self: self.connections)
    @rule(which=st.integers(0, 1 << 16))
    def renew(self, which: int) -> None:
        some = [connection for i, connection in enumerate(self.awake()) if which >> i & 1]
        for node in NODES:
            ours = [connection for connection in some if connection.owner.startswith(node)]
            held = self.ledger.renew([connection.grant for connection in ours], node)
            for connection, still in zip(ours, held, strict=True):
                if still:
                    connection.heard = self.clock.now
                else:
                    self.close(connection)

    @precondition(lambda self: self.awake())
    @rule(
        which=st.integers(0, 99),
        outcome=st.sampled_from([*Outcome, Outcome.CLEAN, Outcome.CLEAN]),
        late=st.sampled_from(LATE),
    )
    def release(self, which: int, outcome: Outcome, late: float) -> None:
        connection = self.awake()[which % len(self.awake())]
        takes = TIMING.linger if outcome is Outcome.CLEAN else TIMING.quarantine
        self.close(connection, takes=late if self.confirm and connection.plugged else takes)
        for _ in range(2):
            self.ledger.release(connection.grant, outcome, "why", connection.owner)

    @precondition(lambda self: self.connections)
    @rule(which=st.integers(0, 99), late=st.sampled_from(LATE))
    def die(self, which: int, late: float) -> None:
        connection = self.connections[which % len(self.connections)]
        self.close(connection, takes=late if self.confirm and connection.plugged else TIMING.quarantine)

    def close(
        self, connection: Connection, at: float | None = None, takes: float = TIMING.quarantine
    ) -> None:
        self.connections.remove(connection)
        self.hosts.let_go(connection, (self.clock.now if at is None else at) + takes)

    # -- holders that are paused, hosts that are counted

    def awake(self) -> list[Connection]:
        return [connection for connection in self.connections if not connection.paused]

    @precondition(lambda self: self.confirm and self.awake())
    @rule(which=st.integers(0, 99))
    def pause(self, which: int) -> None:
        self.awake()[which % len(self.awake())].paused = True

    @precondition(lambda self: len(self.awake()) < len(self.connections))
    @rule(which=st.integers(0, 99))
    def go_on(self, which: int) -> None:
        """Where it was; only then does it look at its clock."""
        paused = [connection for connection in self.connections if connection.paused]
        connection = paused[which % len(paused)]
        connection.paused = False
        if not connection.plugged:
            connection.late = self.clock.now >= connection.heard + TIMING.lease
            self.connect_one(connection)
        if connection in self.connections and self.clock.now >= connection.heard + TIMING.cut_after:
            self.close(connection)

    @precondition(lambda self: self.confirm)
    @rule(
        which=st.integers(0, 99),
        late=st.sampled_from([*LATE, None]),
        forget=st.booleans(),
        node=st.sampled_from(sorted(NODES)),
    )
    def lose_a_holder_and_go_on(self, which: int, late: float | None, forget: bool, node: str) -> None:
        """It dies, or (None) is paused; a lease and a quarantine later others are granted what can be."""
        self.start_what_can_be_started(node)
        if not self.awake():
            return
        if late is None:
            self.pause(which)
        else:
            self.die(which, late)
        if forget:
            self.restart_redis()
        self.live(65)
        self.start_what_can_be_started(node)

    @precondition(lambda self: self.confirm)
    @rule()
    def begin_counts(self) -> None:
        for due in self.ledger.hosts_to_count():
            self.counts.append(Reconciler(due))

    @precondition(lambda self: self.counts)
    @rule(which=st.integers(0, 99))
    def look(self, which: int) -> None:
        count = self.counts[which % len(self.counts)]
        count.seen = self.hosts.plugged(count.due.host, self.connections)

    @precondition(lambda self: any(count.seen is not None for count in self.counts))
    @rule(which=st.integers(0, 99))
    def report(self, which: int) -> None:
        seen = [count for count in self.counts if count.seen is not None]
        count = seen[which % len(seen)]
        self.counts.remove(count)
        assert count.seen is not None
        self.ledger.counted("lab", count.due.host, count.due.asked, count.seen, 0)

    def count_hosts(self) -> None:
        """As it mostly goes: at once."""
        self.clock.advance(0.001)
        for due in self.ledger.hosts_to_count():
            plugged = self.hosts.plugged(due.host, self.connections)
            self.ledger.counted("lab", due.host, due.asked, plugged, 0)

    @precondition(lambda self: self.confirm and self.hosts.orphans)
    @rule(host=st.sampled_from(sorted(CAPS)))
    def restart_nbd(self, host: str) -> None:
        """All of a host's connections are cut, those of vanished peers too."""
        for connection in [each for each in self.connections if each.grant.host == host]:
            self.close(connection, takes=0)
        self.hosts.restart(host)

    # -- Redis forgets

    @precondition(lambda self: self.quiet > 8 and self.connections)
    @rule()
    def restart_redis(self) -> None:
        self.quiet = 0
        self.client.hset("cbtfleet:epoch", "run_id", "another")

    @precondition(lambda self: self.forgets)
    @rule()
    def remember(self) -> None:
        self.snapshot = {key: self.client.dump(key) for key in self.client.keys("cbtfleet:*")}

    @precondition(lambda self: self.quiet > 8 and self.snapshot and self.connections)
    @rule()
    def put_redis_back(self) -> None:
        self.quiet = 0
        assert self.snapshot is not None
        self.clock.flush()
        for key, value in self.snapshot.items():
            self.client.restore(key, 0, value)
        self.client.hset("cbtfleet:epoch", "run_id", "another")
        self.vms = len(self.progress().vms)

    @precondition(lambda self: self.forgets and self.quiet > 8 and self.connections)
    @rule()
    def empty_redis(self) -> None:
        """And the same run comes again, a millisecond after the last grant at the earliest."""
        self.clock.advance(0.001)
        self.clock.flush()
        self.snapshot = None
        self.begin()

    # -- what must hold

    def progress(self) -> RunProgress:
        return self.ledger.progress("run")

    @invariant()
    def everything_holds(self) -> None:
        self.quiet += 1  # lets some work be done between two rare events
        run, slots = self.progress(), read_slots(self.client, CAPS)
        self.hosts_serve_no_more_than_their_cap(slots)
        check_books_on_slots(self.client, run, slots)
        check_batches(self.client, run, slots, None if self.forgets else self.committed)
        check_vms(self.client, run, None if self.forgets else self.finished)
        if not self.forgets:
            self.streams_know_what_is_reserved_for_them(slots)

    def hosts_serve_no_more_than_their_cap(self, slots: Slots) -> None:
        self.hosts.pass_time(self.clock.now)
        for host, cap in CAPS.items():
            assert self.hosts.expected(host, self.connections, self.clock.now - TIMING.lease) <= cap
            assert sum(at == host and slot["state"] != "FREE" for at, _, slot in slots) <= cap

    def streams_know_what_is_reserved_for_them(self, slots: Slots) -> None:
        known = {
            (each.grant.host, each.grant.slot, each.grant.fence): each.batches for each in self.connections
        }
        for host, number, slot in slots:
            batches = known.get((host, number, int(str(slot["fence"]))))
            if slot["state"] in ("OPENING", "HELD") and batches is not None:
                assert set(slot["batches"]) == batches  # type: ignore[call-overload]

    def teardown(self) -> None:
        """Whatever happened: when workers do their work again, every disk ends."""
        for connection in list(self.connections):
            self.close(connection)
        for host in CAPS:
            self.hosts.restart(host)
        for _ in range(200):
            self.wait(65)
            self.sweep()
            self.count_hosts()
            self.admit()
            for grant in [
                grant for grant in self.messages if self.fences[grant.host, grant.slot] == grant.fence
            ]:
                if self.ledger.claim(grant, "n1/last") is None:
                    continue
                self.ledger.opened(grant)
                following = self.ledger.take(grant)
                while following.verdict is Verdict.CONTINUE:
                    assert following.batch is not None
                    self.committed[grant.disk].add(following.batch)
                    following = self.ledger.commit(grant, following.batch, 1, 2)
                assert following.verdict is Verdict.EMPTY
                self.ledger.release(grant, Outcome.CLEAN)
            self.everything_holds()
            if all(disk.state != "streaming" for disk in self.progress().disks):
                break
        assert all(disk.state != "streaming" for disk in self.progress().disks)
        for _ in range(2):
            self.work_off_steps()
            self.wait(65)
        self.everything_holds()
        if self.progress().vms:
            assert Step("run", "end-run", "") not in self.ledger.due_steps()
            assert all(vm.state == "finished" for vm in self.progress().vms)


@pytest.mark.parametrize("confirm", [False, True], ids=["hosts are not asked", "hosts are counted"])
@pytest.mark.parametrize("forgets", [False, True], ids=["redis remembers", "redis forgets"])
def test_any_order_of_events(
    redis_client: redis.Redis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, forgets: bool, confirm: bool
) -> None:
    monkeypatch.setattr(scripts, "FOLDER", lua_with_injected_time(tmp_path))
    members = {"client": redis_client, "forgets": forgets, "confirm": confirm}
    machine = type("Machine", (FleetMachine,), members)
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=20,
            stateful_step_count=50,
            deadline=None,
            derandomize=True,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
