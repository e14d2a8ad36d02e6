"""A pool, a repository and a ledger in memory, in which every call is a point where another actor may go on.

the code of scheduler/ --> PoolSession   --> Pool          (pool.py)
                       --> Repository    --> TurnStore     the real one, over objects in memory
                       --> MemoryLedger                    (ledger.py)
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

from scheduler.context import ReadOnce
from tests.repository_machine import PLAIN, Machine, MemoryStore
from tests.simulation.ledger import MemoryLedger
from tests.simulation.pool import Pool
from tests.simulation.pool_records import Vm
from tests.simulation.turns import Turns
from workers.repository import DiskPoint, ObjectInfo, Repository
from workers.repository.store import Buffer
from workers.xenapi import XapiError

SLEEPERS = (
    "scheduler.pool_objects.cleanup.time",
    "scheduler.pool_objects.destruction.time",
    "scheduler.pool_objects.removing.time",
    "scheduler.retry.time",
)
"""Where the clock is asked, or a pause is made."""


class World:
    """`disks` of the one VM that all runs back up. Nothing was backed up yet."""

    def __init__(self, disks: int) -> None:
        self.turns = Turns()
        self.pool = Pool()
        self.pool.add_vm("dom0", 0, control_domain=True)
        self.vm: Vm = self.pool.add_vm("db", disks)
        self.pool.add_vm("web", 1)
        self.objects = MemoryStore()
        self._connect()

    def _connect(self) -> None:
        self.ledger = MemoryLedger(self.turns)
        self.repository = Repository.open(TurnStore(self.turns, self.objects), PLAIN)
        self.unwatched = Repository.open(self.objects, PLAIN)
        """The same repository, for the judge: nobody gets a turn."""
        self.taken: dict[str, int] = {}
        """What a person took over (uuid), after so many steps."""

    def copy(self) -> World:
        """One of its own to play in, with nothing in the ledger."""
        other = World.__new__(World)
        other.turns = Turns()
        other.pool = self.pool.copy()
        other.vm = other.pool.vms[self.vm.ref]
        other.objects = MemoryStore()
        other.objects.objects = {**self.objects.objects}
        other._connect()
        return other

    def person_takes(self, uuid: str) -> None:
        self.taken[uuid] = len(self.turns.trace)

    def context(self, by: str) -> Any:
        """A ControlContext's parts, of the process that acts for `by`."""
        return Context(self, by)

    def restored(self, disk: DiskPoint) -> bytes:
        return Machine(self.objects, PLAIN, disk.virtual_size).restored(disk)

    @contextmanager
    def time(self) -> Iterator[None]:
        """Every clock that the code under test asks is the course's, which only sleeping moves."""
        patches = [patch(name, self.turns) for name in SLEEPERS]
        for each in patches:
            each.start()
        try:
            yield
        finally:
            for each in patches:
                each.stop()


class Context:
    def __init__(self, world: World, by: str) -> None:
        self.ledger = world.ledger
        self.repository = world.repository
        self.read_once = ReadOnce()
        self.sessions = self
        self._session = PoolSession(world, by)

    @contextmanager
    def borrow(self, pool: str) -> Iterator[PoolSession]:
        yield self._session


class PoolSession:
    """A call that changes something is sent at one point, and has its effect at another: XAPI takes its
    time."""

    def __init__(self, world: World, by: str) -> None:
        self.pool = "lab"
        self._pool = world.pool
        self._turns = world.turns
        self._by = by

    def call(self, method: str, *args: Any) -> Any:
        step = self._turns.point(f"{method}{self._of(args)}")
        kind, _, what = method.partition(".")
        if kind == "SR":
            return self._pool.do(self._by, method, *args)
        if what.startswith("get_"):
            step.reads = (f"{kind}:",) if "get_all" in what else (self._name(kind, what, args[0]),)
            return self._pool.do(self._by, method, *args)
        before = self._pool.state()
        step.reads = tuple(self._pool.name_of(ref) for ref in args if isinstance(ref, str))
        if what == "destroy":
            step.reads += ("points/",)  # the judge asks there
        made_by = self._pool.made_by(args[0])
        if "destroy" in what and made_by != self._by:
            step.reads += (f"runs/{made_by}/open",)
        try:
            return self._pool.do(self._by, method, *args)
        finally:
            after = self._pool.state()
            changed = [each for each in {**before, **after} if before.get(each) != after.get(each)]
            step.writes = (*changed, self._pool.name_of(args[0]))

    def call_async(self, method: str, *args: Any, **options: Any) -> Any:
        self._turns.point(f"{method}{self._of(args)} is sent")
        return self.call(method, *args)

    def aside(self, method: str, *args: Any) -> Any:
        try:
            return self.call(method, *args)
        except XapiError:
            return None

    def _name(self, kind: str, what: str, of: str) -> str:
        return f"{kind}:{of}" if what == "get_by_uuid" else self._pool.name_of(of)

    def _of(self, args: tuple[Any, ...]) -> str:
        return f" {args[0]}".replace("OpaqueRef:", "") if args else ""


class TurnStore:
    def __init__(self, turns: Turns, objects: MemoryStore) -> None:
        self._turns = turns
        self._objects = objects

    def put_if_absent(self, key: str, data: Buffer) -> None:
        self._turns.point(f"put {key}").writes = (key,)
        self._objects.put_if_absent(key, data)

    def get(self, key: str, limit: int) -> bytes:
        self._turns.point(f"get {key}").reads = (key,)
        return self._objects.get(key, limit)

    def get_range(self, key: str, start: int, length: int) -> bytes:
        self._turns.point(f"get of {key}").reads = (key,)
        return self._objects.get_range(key, start, length)

    def head(self, key: str) -> ObjectInfo:
        self._turns.point(f"head {key}").reads = (key,)
        return self._objects.head(key)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        self._turns.point(f"list {prefix}").reads = (prefix,)
        return self._objects.list(prefix)

    def delete(self, key: str) -> None:
        self._turns.point(f"delete {key}").writes = (key,)
        self._objects.delete(key)

    def close(self) -> None:
        pass
