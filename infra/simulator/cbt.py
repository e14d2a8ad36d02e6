"""Changed-block logs: one per VDI that has CBT, chained from each snapshot to its child.

    live            log: writes since the last snapshot
    snapshot        takes the live log over; a new empty one begins

        S1 --child--> S2 --child--> live        changed(S1, S2) = log(S2)
                                                changed(S1, live) = log(S2) | log(live)

A log knows which blocks were *written*; whether the bytes differ is not its business.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass, field

import numpy as np

from infra.simulator.failures import sm_failure
from infra.simulator.patterns import BLOCK_SIZE


@dataclass
class Log:
    size: int
    """Of the disk, in bytes, when the log was last in use."""
    blocks: set[int] = field(default_factory=set)
    parent: str | None = None
    child: str | None = None
    consistent: bool = True

    @property
    def bitmap_length(self) -> int:
        blocks = -(-self.size // BLOCK_SIZE)
        return -(-blocks // 8)


@dataclass
class Logs:
    """All logs of a pool, by VDI uuid."""

    _logs: dict[str, Log] = field(default_factory=dict)

    def __contains__(self, vdi: str) -> bool:
        return vdi in self._logs

    def __getitem__(self, vdi: str) -> Log:
        return self._logs[vdi]

    def enable(self, vdi: str, size: int) -> None:
        self._logs.setdefault(vdi, Log(size))

    def disable(self, vdi: str) -> None:
        """Deletes the log and cuts its parent's pointer: earlier snapshots keep theirs."""
        log = self._logs.pop(vdi, None)
        if log is not None and log.parent in self._logs:
            self._logs[log.parent].child = None

    def crash(self, vdi: str) -> None:
        """Its host died: the log is inconsistent, and what was not on the storage yet is lost: here, all."""
        if vdi in self._logs:
            self._logs[vdi].consistent = False
            self._logs[vdi].blocks.clear()

    def wrote(self, vdi: str, blocks: list[int]) -> None:
        if vdi in self._logs:
            self._logs[vdi].blocks.update(blocks)

    def grow(self, vdi: str, size: int) -> None:
        if vdi in self._logs:
            self._logs[vdi].size = size

    def snapshot(self, live: str, snapshot: str) -> None:
        """The live log becomes the snapshot's, and a new empty one begins."""
        log = self._logs.pop(live)
        self._logs[snapshot] = log
        self._logs[live] = Log(log.size, parent=snapshot, consistent=log.consistent)
        log.child, log.consistent = live, True
        if log.parent in self._logs:
            self._logs[log.parent].child = snapshot

    def remove(self, vdi: str, *, relink: bool) -> None:
        """A VDI is destroyed. With `relink` its bits go to its child and the neighbours join hands."""
        log = self._logs.pop(vdi, None)
        if log is None or not relink:
            return
        if log.child in self._logs:
            child = self._logs[log.child]
            child.blocks |= log.blocks
            child.parent = log.parent
        if log.parent in self._logs:
            self._logs[log.parent].child = log.child

    def changed(self, first: str, last: str) -> bytes:
        """The bitmap of what was written after snapshot `first` up to `last`, block 0 in the highest bit.

        Raises Failure 460 when the two are not on one chain, 459 when the sizes along it make no sense.
        """
        if first == last:
            raise sm_failure(460, "Source and target VDI are same")
        merged: set[int] = set()
        size = length = 0
        current: str | None = first
        while first in self._logs and last in self._logs:
            current = self._logs[current].child if current is not None else None
            if current is None or current not in self._logs:
                break
            log = self._logs[current]
            if size and (
                log.size < size
                or log.bitmap_length < length
                or (log.size > size and log.bitmap_length <= length)
            ):
                raise sm_failure(459, "Inconsistent bitmaps")
            merged |= log.blocks
            size, length = log.size, log.bitmap_length
            if current == last:
                return _bitmap(merged, length)
        raise sm_failure(460, "Source and target VDI are unrelated")

    def changed_base64(self, first: str, last: str, *, padding: bool = False) -> str:
        """`padding`: the bits after the last block, which mean nothing, are set."""
        bitmap = self.changed(first, last)
        unused = -(-self._logs[last].size // BLOCK_SIZE) % 8
        if padding and unused:
            bitmap = bitmap[:-1] + bytes([bitmap[-1] | (0xFF >> unused)])
        return base64.b64encode(bitmap).decode("ascii")


def _bitmap(blocks: set[int], length: int) -> bytes:
    bits = np.zeros(length * 8, np.uint8)
    if blocks:
        bits[np.fromiter(blocks, np.int64, len(blocks))] = 1
    return np.packbits(bits).tobytes()
