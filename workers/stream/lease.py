"""The lease on one connection slot: renewed while its stream runs, and the connection cut when it was not.

    stage          told CANCEL            told DRAIN (the node stops)          not renewed for `cut_after`
    opening        cut                    cut; stuck after 4 s (an XenAPI call    cut
                                          cannot be cut): the parent ends us
    transferring   the transfer stops     the batch in hand is finished; cut      cut
                                          when the host owes us data for 4 s

The ledger's verdict comes with every renewal: a stream that waits for a slow host makes no commit to hear it
with. The node's own word, over the supervisor, comes at once.
"""

from __future__ import annotations

import logging
import threading
import time
from types import TracebackType
from typing import Protocol

from workers.errors import CbtfleetError
from workers.fleet import Ledger, Verdict
from workers.logs import in_context
from workers.messages import Grant
from workers.nbd import Abort
from workers.stream.reports import NoReports, Reports

log = logging.getLogger(__name__)

_PATIENCE = 0.8
"""Of `renew_every` (5 s): so long a host may keep a stopping node waiting. In the rest of it the word
reaches the stream, and what is in hand is given back."""


class Worked(Protocol):
    """What is done over the open connection."""

    @property
    def waiting_since(self) -> float | None:
        """Since when the host owes us data, on the monotonic clock; None while it does not."""

    def tell(self, verdict: Verdict) -> None:
        """CANCEL: stop now. DRAIN: begin no further batch. From any thread."""


class LeaseKeeper:
    """Renews one grant's lease, and cuts the connection when it could not.

    The cut comes `cut_after` seconds after the *sending* of the last renewal that was answered, by a clock
    that no one can set: before anyone else may think that the slot is free. It has a thread of its own, as a
    renewal to a Redis that hangs takes long to fail.
    """

    def __init__(
        self,
        ledger: Ledger,
        grant: Grant,
        owner: str,
        claimed: float,
        reports: Reports = NoReports(),  # noqa: B008 - it has no state
    ) -> None:
        """`claimed` is when the claim was sent, on the monotonic clock."""
        self._ledger = ledger
        self._grant = grant
        self._owner = owner
        self._reports = reports
        self._timing = ledger.timing
        self._end = threading.Event()
        self._look = threading.Event()
        self._lock = threading.Lock()
        self._acknowledged = claimed
        self._worked: Worked | None = None
        self._drained: float | None = None
        self._threads: list[threading.Thread] = []
        self.cut = Abort()
        """Cuts the connection that was opened with it, also one that is still being opened."""
        self.lost = False
        """The connection was cut because the slot is not, or may soon not be, ours."""
        self.stopped: Verdict | None = None
        """The connection was cut because of this verdict."""

    def __enter__(self) -> LeaseKeeper:
        for name, work in (("lease-renew", self._renew), ("lease-watch", self._watch)):
            self._threads.append(threading.Thread(target=in_context(work), name=name, daemon=True))
            self._threads[-1].start()
        self._reports.on_drain(lambda: self._heed(Verdict.DRAIN))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._reports.on_drain(None)
        self._end.set()
        self._look.set()
        for thread in self._threads:
            thread.join()

    def still_ours(self) -> bool:
        """Whether the slot is safely ours at this moment; if not, the connection is cut.

        To be asked before anything that takes the host's time: a process that was paused may go on before
        its watching thread does.
        """
        if time.monotonic() >= self._acknowledged + self._timing.cut_after:
            self._lose()
        return not self.lost

    def transferring(self, worked: Worked) -> None:
        """The connection is open, and from now on `worked` uses it."""
        with self._lock:
            self._worked = worked

    def _renew(self) -> None:
        while not self._end.wait(self._timing.renew_every):
            sent = time.monotonic()
            try:
                [held] = self._ledger.renew([self._grant], owner=self._owner)
                if held:
                    if not self.still_ours():  # after a flush the ledger also gives back what had passed
                        return
                    self._acknowledged = sent
                    self._reports.renewed(time.monotonic() - sent)
                    [verdict] = self._ledger.verdicts([self._grant], owner=self._owner)
            except CbtfleetError as error:
                log.warning("lease not renewed: %s", error)
                continue
            if not held or verdict is Verdict.FENCE:
                self._lose()
                return
            self._heed(verdict)

    def _heed(self, verdict: Verdict) -> None:
        if verdict not in (Verdict.CANCEL, Verdict.DRAIN):
            return
        with self._lock:
            if verdict is Verdict.DRAIN and self._drained is None:
                self._drained = time.monotonic()
            worked = self._worked
            if worked is None:
                self.stopped = verdict
        if worked is None:
            self.cut.throw()
        else:
            worked.tell(verdict)
        self._look.set()

    def _watch(self) -> None:
        """Also says every `renew_every` that this process is not stopped, whatever Redis does."""
        every = self._timing.renew_every
        said = time.monotonic()
        while not self._end.is_set():
            now = time.monotonic()
            if not self.still_ours():
                return
            if now >= said + every:
                self._reports.alive()
                said = now
            due = [self._acknowledged + self._timing.cut_after, said + every]
            if self._drained is not None:
                due.append(self._hurry(self._drained, now))
            self._look.wait(max(min(due) - now, 0.0))
            self._look.clear()

    def _hurry(self, drained: float, now: float) -> float:
        """The node stops: ends what would take too long. Returns when to look again."""
        patience = _PATIENCE * self._timing.renew_every
        worked = self._worked
        if worked is None:
            if now < drained + patience:
                return drained + patience
            self._reports.stuck()
            return now + patience
        waiting = worked.waiting_since
        if waiting is None or now < max(waiting, drained) + patience:
            return now + patience / 20  # who waits for whom changes all the time
        self.stopped = Verdict.DRAIN
        self.cut.throw()
        return now + patience

    def _lose(self) -> None:
        self.lost = True
        self.cut.throw()
