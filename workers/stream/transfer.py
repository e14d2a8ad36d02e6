"""Batches through one open connection: read, seal and upload at the same time, in bounded memory.

        this thread              sealing thread             uploading thread
    NBD reads into chunks  ->  zero? hash, zstd, AES  ->  PUT, commit in the ledger
        |  5 x 4 MiB               one pack                one waiting, one going up
        |    ^                     ^  |
        |    +----- free chunks ---|--+
        +---> beginning thread ----+
              a pack for each batch: what the store knows of its blocks is asked for while they are read

They overlap because each spends its time outside the interpreter lock. Memory is at most
`CHUNKS * CHUNK_SIZE` of plain data and `MAX_BATCHES` packs: 20 MiB + 3 x 33 MiB.

Nobody waits in a ring. The other threads never wait for the reading one. The reading one
waits for a free chunk while replies are in flight only if some chunk is on its way through the other two;
it waits for a commit only when nothing is in flight. Replies may come in any order (XenServer's do in order,
other servers' need not): a chunk is handed on when all before it have been.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

from workers.extents import Plan
from workers.fleet import Next, Verdict
from workers.logs import bind, in_context
from workers.nbd import Connection, Read
from workers.repository import Pack, PackWriter
from workers.stream.bounded_queue import BoundedQueue, Stopped
from workers.stream.chunks import CHUNK_SIZE, Chunk, Piece, pieces_of

CHUNKS = 5
MAX_BATCHES = 3
WINDOW = 8 << 20
"""Bytes in flight: 400 MiB/s at 20 ms of round trip."""

_STRENGTH = {
    Verdict.CONTINUE: 0,
    Verdict.EMPTY: 1,
    Verdict.YIELD: 2,
    Verdict.DRAIN: 2,
    Verdict.CANCEL: 3,
    Verdict.FENCE: 3,
}
"""How little a stream may still do. EMPTY: what is reserved; YIELD, DRAIN: what was begun; 3: nothing."""


class BatchSource(Protocol):
    """The ledger, as one stream sees it."""

    def take(self) -> Next: ...

    def commit(self, batch: int, read_bytes: int, pack: Pack) -> Next: ...


@dataclass(frozen=True)
class _Sealed:
    batch: int
    pack: Pack
    read_bytes: int


class Transfer:
    """Works off batches of one plan over one connection until the ledger says stop. Used once."""

    def __init__(
        self,
        connection: Connection,
        plan: Plan,
        source: BatchSource,
        new_pack: Callable[[int], PackWriter],
        put: Callable[[Pack], None],
    ) -> None:
        self._connection = connection
        self._plan = plan
        self._source = source
        self._new_pack = new_pack
        self._put = put
        self._free: BoundedQueue[Chunk] = BoundedQueue(CHUNKS)
        self._filled: BoundedQueue[Chunk] = BoundedQueue(CHUNKS)
        self._sealed: BoundedQueue[_Sealed] = BoundedQueue(1)
        self._begun: BoundedQueue[int] = BoundedQueue(MAX_BATCHES)
        self._packs: BoundedQueue[PackWriter] = BoundedQueue(MAX_BATCHES)
        self._changed = threading.Condition()
        self._reserved: deque[int] = deque()
        self._pieces: deque[Piece] = deque()
        self._outstanding = 0
        self._verdict = Verdict.CONTINUE
        self._failure: BaseException | None = None
        self._stopping = False
        self.waiting_since: float | None = None
        """Since when the host owes us data, on the monotonic clock; None while we ask it for nothing."""

    def run(self) -> Verdict:
        """Transfers until there is nothing more to do here, and says why it stopped.

        Every batch that was begun is committed, unless the verdict is CANCEL or FENCE. Raises what reading,
        sealing, storing or the ledger raised first; the batches in hand are then not committed.
        """
        for _ in range(CHUNKS):
            self._free.put(Chunk(memoryview(bytearray(CHUNK_SIZE))))
        with ThreadPoolExecutor(3, thread_name_prefix="transfer") as threads:
            threads.submit(in_context(self._stage), self._begin_packs)
            threads.submit(in_context(self._stage), self._seal)
            threads.submit(in_context(self._stage), self._upload)
            self._stage(self._read)
        if self._failure is not None:
            raise self._failure
        return self._verdict

    def tell(self, verdict: Verdict) -> None:
        """A word from elsewhere, from any thread: CANCEL stops everything now, DRAIN begins nothing more."""
        with self._changed:
            self._take_in(verdict)
            self._changed.notify_all()
        if verdict in (Verdict.CANCEL, Verdict.FENCE):
            self._stop(None)

    def _stage(self, work: Callable[[], None]) -> None:
        try:
            work()
        except Stopped:
            pass
        except BaseException as error:  # noqa: BLE001 - kept, and raised by run()
            self._stop(error)

    def _stop(self, failure: BaseException | None) -> None:
        """Ends all threads now. Only the first failure counts: the others follow from it."""
        with self._changed:
            if not self._stopping:
                self._failure = failure
            self._stopping = True
            self._changed.notify_all()
        for queue in (self._free, self._filled, self._sealed, self._begun, self._packs):
            queue.stop()
        self._connection.abort()

    # -- which batch next

    def _next_batch(self, *, wait: bool) -> int | None:
        """A batch to read; None when there is none (for now, if not waiting)."""
        with self._changed:
            while True:
                if self._stopping:
                    raise Stopped
                if self._reserved and self._verdict in (Verdict.CONTINUE, Verdict.EMPTY):
                    return self._reserved.popleft()
                if self._verdict is not Verdict.CONTINUE:
                    return None
                if self._outstanding < MAX_BATCHES:
                    break
                if not wait:
                    return None
                self._changed.wait()
            self._outstanding += 1
        self._heed(self._source.take())
        return self._next_batch(wait=wait)

    def _heed(self, answer: Next) -> None:
        """Takes in the ledger's answer."""
        with self._changed:
            if answer.batch is not None:
                self._reserved.append(answer.batch)
            else:
                self._outstanding -= 1
            self._take_in(answer.verdict)
            if answer.batch is None:
                self._take_in(Verdict.EMPTY)
            self._changed.notify_all()
        if answer.verdict in (Verdict.CANCEL, Verdict.FENCE):
            self._stop(None)

    def _take_in(self, verdict: Verdict) -> None:
        """Keeps the verdict that lets us do least."""
        if _STRENGTH[verdict] > _STRENGTH[self._verdict]:
            self._verdict = verdict

    # -- the reading thread

    def _read(self) -> None:
        while self._has_piece(wait=True):
            awaited: dict[Read, Chunk] = {}
            flying: deque[Chunk] = deque()
            for read in self._connection.read(self._reads(awaited, flying), window=WINDOW):
                self.waiting_since = None
                awaited.pop(read).awaited -= 1
                while flying and not flying[0].awaited:
                    self._filled.put(flying.popleft())
                self.waiting_since = time.monotonic()
            self.waiting_since = None
        self._begun.close()
        self._filled.close()

    def _has_piece(self, *, wait: bool) -> bool:
        """Whether there is something to read (for now, if not waiting)."""
        if self._pieces:
            return True
        batch = self._next_batch(wait=wait)
        if batch is None:
            return False
        self._begun.put(batch)  # never full: not more than MAX_BATCHES are uncommitted
        self._pieces += pieces_of(batch, self._plan.batch(batch))
        return True

    def _reads(self, awaited: dict[Read, Chunk], flying: deque[Chunk]) -> Iterator[Read]:
        """The reads of batch after batch, for as long as no batch has to be waited for.

        They also end when every chunk is flying: none comes free before the replies to all of these are in.
        """
        while len(flying) < CHUNKS and self._has_piece(wait=False):
            self.waiting_since = None
            chunk = self._free.get()
            assert chunk is not None  # the free chunks are never closed
            reads = chunk.take(self._pieces.popleft(), self._plan.virtual_size)
            flying.append(chunk)
            for read in reads:
                awaited[read] = chunk
                self.waiting_since = time.monotonic()
                yield read

    # -- the beginning thread

    def _begin_packs(self) -> None:
        while (batch := self._begun.get()) is not None:
            with bind(batch=batch):
                self._packs.put(self._new_pack(batch))
        self._packs.close()

    # -- the sealing thread

    def _seal(self) -> None:
        pack: PackWriter | None = None
        read_bytes = 0
        while (chunk := self._filled.get()) is not None:
            if pack is None:
                pack = self._packs.get()
                assert pack is not None  # one was begun for each batch that is read
                read_bytes = 0
            pack.add(chunk.blocks, chunk.buffer[: chunk.length])
            read_bytes += chunk.length
            batch, ends_batch = chunk.batch, chunk.ends_batch
            self._free.put(chunk)
            if ends_batch:
                self._sealed.put(_Sealed(batch, pack.finish(), read_bytes))
                pack = None
        self._sealed.close()

    # -- the uploading thread

    def _upload(self) -> None:
        while (sealed := self._sealed.get()) is not None:
            with bind(batch=sealed.batch):
                self._put(sealed.pack)
                self._heed(self._source.commit(sealed.batch, sealed.read_bytes, sealed.pack))
