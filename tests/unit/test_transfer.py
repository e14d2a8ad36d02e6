"""Batches through one connection: right bytes, bounded memory, one failure ends all threads."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import pytest

from tests.until import until
from workers.errors import CbtfleetError
from workers.extents import BATCH_BLOCKS, BLOCK_SIZE, Plan
from workers.fleet import Next, Verdict
from workers.nbd import ConnectionLost, Read
from workers.repository import Pack
from workers.stream import transfer
from workers.stream.chunks import CHUNK_SIZE
from workers.stream.transfer import CHUNKS, MAX_BATCHES, Transfer


class MemoryConnection:
    """A connection to a disk in memory that keeps `window` bytes in flight as the real one does."""

    def __init__(
        self, disk: np.ndarray, fail_at: int | None = None, pick: Callable[[int], int] = lambda flying: 0
    ) -> None:
        """`pick` chooses which of the reads in flight is answered next; the oldest, as XenServer does."""
        self.size = len(disk)
        self._pick = pick
        self.read_blocks: list[int] = []
        self.aborted = threading.Event()
        self._disk = memoryview(disk)
        self._fail_at = fail_at

    def read(self, requests: Iterable[Read], window: int) -> Iterator[Read]:
        flying: list[Read] = []
        waiting = iter(requests)
        held = next(waiting, None)
        while True:
            while (
                held is not None and sum(each.buffer.nbytes for each in flying) + held.buffer.nbytes <= window
            ):
                flying.append(held)
                held = next(waiting, None)
            if self.aborted.is_set():
                raise ConnectionLost("aborted")
            if not flying:
                return
            read = flying.pop(self._pick(len(flying)))
            if self._fail_at is not None and read.offset >= self._fail_at:
                raise ConnectionLost("the host went away")
            read.buffer[:] = self._disk[read.offset : read.offset + read.buffer.nbytes]
            self.read_blocks += range(
                read.offset // BLOCK_SIZE, -(-(read.offset + read.buffer.nbytes) // BLOCK_SIZE)
            )
            yield read

    def abort(self) -> None:
        self.aborted.set()


class Batches:
    """The ledger's side: hands out batches in order and remembers the commits."""

    def __init__(self, plan: Plan, stop_after: int | None = None, stop: Verdict = Verdict.YIELD) -> None:
        self.committed: dict[int, tuple[int, int]] = {}
        self.held = 0
        self.most_held = 0
        self._left = list(range(plan.batches))
        self._stop_after = stop_after
        self._stop = stop
        self._lock = threading.Lock()

    def take(self) -> Next:
        with self._lock:
            return self._next()

    def commit(self, batch: int, read_bytes: int, pack: Pack) -> Next:
        with self._lock:
            assert batch not in self.committed
            self.committed[batch] = (read_bytes, len(pack.data))
            self.held -= 1
            return self._next()

    def _next(self) -> Next:
        if self._stop_after is not None and len(self.committed) >= self._stop_after:
            return Next(self._stop, None)
        if not self._left:
            return Next(Verdict.EMPTY, None)
        self.held += 1
        self.most_held = max(self.most_held, self.held)
        return Next(Verdict.CONTINUE, self._left.pop(0))


class PlainPack:
    """Keeps the plain bytes instead of sealing them, so that a test can compare."""

    def __init__(self, batch: int) -> None:
        self.batch = batch
        self.blocks: list[int] = []
        self.plain = bytearray()

    def add(self, blocks: np.ndarray, plain: memoryview) -> None:
        self.blocks += blocks.tolist()
        self.plain += plain

    def finish(self) -> Pack:
        return Pack(f"packs/{self.batch}", memoryview(self.plain), len(self.blocks), 0, len(self.plain), b"")


def disk_and_plan(seed: int, blocks: int, density: float, tail: int = 0) -> tuple[np.ndarray, Plan]:
    size = blocks * BLOCK_SIZE - tail
    disk = np.random.default_rng(seed).integers(0, 256, size, dtype=np.uint8)
    chance = random.Random(seed)
    bits = [chance.random() < density for _ in range(blocks)]
    bits[-1] = True
    return disk, Plan.from_bitmap(np.packbits(bits).tobytes(), size)


def run(connection: MemoryConnection, plan: Plan, batches: Batches, packs: dict[int, PlainPack]) -> Verdict:
    def new_pack(batch: int) -> PlainPack:
        packs[batch] = PlainPack(batch)
        return packs[batch]

    put: list[str] = []
    verdict = Transfer(connection, plan, batches, new_pack, lambda pack: put.append(pack.key)).run()  # type: ignore[arg-type]
    assert put == [f"packs/{batch}" for batch in batches.committed]
    return verdict


@pytest.mark.parametrize(
    ("blocks", "density", "tail"),
    [
        (1, 1.0, 0),
        (1, 1.0, BLOCK_SIZE - 512),
        (1300, 1.0, 0),
        (1500, 0.5, 512),
        (3000, 0.1, 4096),
        (513, 1.0, 1),
    ],
)
def test_each_planned_block_is_read_once_and_packed_in_order(blocks: int, density: float, tail: int) -> None:
    disk, plan = disk_and_plan(blocks, blocks, density, tail)
    connection, batches = MemoryConnection(disk), Batches(plan)
    packs: dict[int, PlainPack] = {}
    assert run(connection, plan, batches, packs) is Verdict.EMPTY
    assert sorted(batches.committed) == list(range(plan.batches))
    assert sum(read for read, _ in batches.committed.values()) == plan.changed_bytes
    everything = [block for number in range(plan.batches) for block in plan.batch(number).tolist()]
    assert connection.read_blocks == everything
    for number, pack in packs.items():
        assert pack.blocks == plan.batch(number).tolist()
        expected = b"".join(
            disk[block * BLOCK_SIZE : (block + 1) * BLOCK_SIZE].tobytes() for block in pack.blocks
        )
        assert bytes(pack.plain) == expected


@pytest.mark.parametrize("density", [1.0, 0.3])
@pytest.mark.parametrize("order", ["random", "newest first", "oldest last"])
def test_replies_may_come_in_any_order(order: str, density: float) -> None:
    """Also so that one unanswered read holds every chunk up."""
    disk, plan = disk_and_plan(6, 2 * BATCH_BLOCKS, density, 512)
    chance = random.Random(7)
    pick = {
        "random": chance.randrange,
        "newest first": lambda flying: flying - 1,
        "oldest last": lambda flying: min(1, flying - 1),
    }[order]
    connection, batches = MemoryConnection(disk, pick=pick), Batches(plan)
    packs: dict[int, PlainPack] = {}
    assert run(connection, plan, batches, packs) is Verdict.EMPTY
    assert len(connection.read_blocks) == plan.blocks
    assert {number: pack.blocks for number, pack in packs.items()} == {
        number: plan.batch(number).tolist() for number in plan.batch_numbers()
    }
    for pack in packs.values():
        first = pack.blocks[0] * BLOCK_SIZE
        assert bytes(pack.plain[:BLOCK_SIZE]) == disk[first : first + BLOCK_SIZE].tobytes()


@pytest.mark.parametrize("stop", [Verdict.YIELD, Verdict.DRAIN])
def test_asked_to_stop_it_commits_what_it_has_begun(stop: Verdict) -> None:
    disk, plan = disk_and_plan(1, 10 * BATCH_BLOCKS, 1.0)
    batches = Batches(plan, stop_after=3, stop=stop)
    packs: dict[int, PlainPack] = {}
    assert run(MemoryConnection(disk), plan, batches, packs) is stop
    assert 3 <= len(batches.committed) < 3 + MAX_BATCHES
    assert set(packs) == set(batches.committed)


@pytest.mark.parametrize("stop", [Verdict.CANCEL, Verdict.FENCE])
def test_told_to_give_up_it_cuts_the_connection(stop: Verdict) -> None:
    disk, plan = disk_and_plan(2, 10 * BATCH_BLOCKS, 1.0)
    connection, batches = MemoryConnection(disk), Batches(plan, stop_after=2, stop=stop)
    assert run(connection, plan, batches, {}) is stop
    assert connection.aborted.is_set()
    assert len(batches.committed) <= 2 + MAX_BATCHES


class SilentAfter(MemoryConnection):
    """Answers so many reads, then owes the next for as long as it is not aborted."""

    def __init__(self, disk: np.ndarray, answers: int) -> None:
        super().__init__(disk)
        self.silent = threading.Event()
        self._answers = answers

    def read(self, requests: Iterable[Read], window: int) -> Iterator[Read]:
        for read in super().read(requests, window):
            self._answers -= 1
            if self._answers < 0:
                self.silent.set()
                assert self.aborted.wait(10)
                raise ConnectionLost("aborted")
            yield read


def test_told_to_cancel_while_the_host_is_silent_it_stops_at_once() -> None:
    disk, plan = disk_and_plan(5, 1200, 1.0)
    connection, batches = SilentAfter(disk, 40), Batches(plan)
    transfer = Transfer(connection, plan, batches, PlainPack, lambda pack: None)  # type: ignore[arg-type]

    def tell() -> None:
        assert connection.silent.wait(10)
        assert transfer.waiting_since is not None
        transfer.tell(Verdict.CANCEL)

    teller = threading.Thread(target=tell)
    teller.start()
    assert transfer.run() is Verdict.CANCEL
    teller.join()
    assert transfer.waiting_since is not None
    assert len(batches.committed) <= 1


def test_told_to_drain_it_finishes_what_it_has_begun_whatever_the_ledger_still_offers() -> None:
    disk, plan = disk_and_plan(5, 3000, 1.0)
    batches = Batches(plan)
    begun: list[int] = []

    def new_pack(batch: int) -> PlainPack:
        begun.append(batch)
        transfer.tell(Verdict.DRAIN)
        return PlainPack(batch)

    transfer = Transfer(MemoryConnection(disk), plan, batches, new_pack, lambda pack: None)  # type: ignore[arg-type]
    assert transfer.run() is Verdict.DRAIN
    assert begun == list(batches.committed)
    assert 1 <= len(begun) < plan.batches
    assert transfer.waiting_since is None


def test_a_batch_is_committed_when_its_pack_is_stored_and_not_before() -> None:
    disk, plan = disk_and_plan(8, 5 * BATCH_BLOCKS, 1.0)
    happened: list[str] = []

    class Noting(Batches):
        def commit(self, batch: int, read_bytes: int, pack: Pack) -> Next:
            happened.append(f"committed {batch}")
            return super().commit(batch, read_bytes, pack)

    def put(pack: Pack) -> None:
        happened.append(f"stored {pack.key.removeprefix('packs/')}")

    Transfer(MemoryConnection(disk), plan, Noting(plan), PlainPack, put).run()  # type: ignore[arg-type]
    assert happened == [f"{what} {batch}" for batch in range(5) for what in ("stored", "committed")]


def test_a_batch_whose_pack_the_store_did_not_take_is_not_committed() -> None:
    disk, plan = disk_and_plan(9, 4 * BATCH_BLOCKS, 1.0)
    batches = Batches(plan)

    def put(pack: Pack) -> None:
        if pack.key == "packs/1":
            raise StoreDown("the store is down")

    with pytest.raises(StoreDown):
        Transfer(MemoryConnection(disk), plan, batches, PlainPack, put).run()  # type: ignore[arg-type]
    assert list(batches.committed) == [0]


def test_a_lost_connection_is_raised_and_nothing_after_it_is_committed() -> None:
    disk, plan = disk_and_plan(3, 6 * BATCH_BLOCKS, 1.0)
    batches = Batches(plan)
    with pytest.raises(ConnectionLost, match="went away"):
        run(MemoryConnection(disk, fail_at=2 * BATCH_BLOCKS * BLOCK_SIZE + 5), plan, batches, {})
    assert set(batches.committed) <= {0, 1}


class StoreDown(CbtfleetError):
    pass


@pytest.mark.parametrize("where", ["begin", "add", "finish", "put", "commit", "take"])
def test_the_first_failure_ends_every_thread(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    disk, plan = disk_and_plan(4, 8 * BATCH_BLOCKS, 1.0)
    connection, batches = MemoryConnection(disk), Batches(plan)
    before = threading.active_count()
    packs: list[PlainPack] = []

    def fail(*_: object) -> None:
        raise StoreDown("the store is down")

    def new_pack(batch: int) -> PlainPack:
        packs.append(PlainPack(batch))
        if where == "begin" and batch == 1:
            fail()
        if where in ("add", "finish") and batch == 1:
            monkeypatch.setattr(packs[-1], where, fail)
        return packs[-1]

    if where in ("commit", "take"):
        monkeypatch.setattr(batches, where, fail)
    put = fail if where == "put" else lambda pack: None
    with pytest.raises(StoreDown):
        Transfer(connection, plan, batches, new_pack, put).run()  # type: ignore[arg-type]
    assert threading.active_count() == before
    assert connection.aborted.is_set()


def test_reading_does_not_wait_for_a_pack_to_begin() -> None:
    """What the store knows of its blocks comes from far away."""
    disk, plan = disk_and_plan(6, BATCH_BLOCKS, 1.0)
    connection, batches = MemoryConnection(disk), Batches(plan)

    def new_pack(batch: int) -> PlainPack:
        until(lambda: len(connection.read_blocks) >= CHUNK_SIZE // BLOCK_SIZE)
        return PlainPack(batch)

    assert Transfer(connection, plan, batches, new_pack, lambda pack: None).run() is Verdict.EMPTY  # type: ignore[arg-type]
    assert list(batches.committed) == [0]


def test_memory_is_bounded_however_slow_the_store(monkeypatch: pytest.MonkeyPatch) -> None:
    disk, plan = disk_and_plan(5, 12 * BATCH_BLOCKS, 1.0)
    connection, batches = MemoryConnection(disk), Batches(plan)
    begun: list[int] = []
    most_ahead = 0
    made: list[int] = []
    monkeypatch.setattr(
        transfer, "bytearray", lambda size: (made.append(size), bytearray(size))[1], raising=False
    )

    def new_pack(batch: int) -> PlainPack:
        begun.append(batch)
        return PlainPack(batch)

    def slow_put(pack: Pack) -> None:
        nonlocal most_ahead
        # wait until the other threads can get no further, then count the packs that exist
        while connection.read_blocks[-1:] != read_up_to[-1:]:
            read_up_to[:] = connection.read_blocks[-1:]
            threading.Event().wait(0.02)
        most_ahead = max(most_ahead, len(begun) - len(batches.committed))

    read_up_to: list[int] = []
    Transfer(connection, plan, batches, new_pack, slow_put).run()  # type: ignore[arg-type]
    assert len(batches.committed) == plan.batches
    assert most_ahead <= MAX_BATCHES
    assert batches.most_held <= MAX_BATCHES
    assert made == [CHUNK_SIZE] * CHUNKS
